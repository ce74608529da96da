// Table text: parse_table(), parse_number(), escape_word().
#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>

#include "server/target/table_line.hpp"
#include "tests/fuzz/demand.hpp"

using namespace blockloom;

namespace {

/// What was accepted keeps its promises, and reads back as it was.
void check_line(const TableLine& line) {
  demand(line.length.value > 0);
  demand(line.start <= max_sectors && line.length <= max_sectors - line.start);
  std::string text = std::to_string(line.start.value) + " " + std::to_string(line.length.value) +
                     " " + escape_word(line.type);
  for (const std::string& word : line.words)
    text += " " + escape_word(word);
  const auto again = parse_table(text);
  demand(static_cast<bool>(again) && again.value().size() == 1);
  demand(again.value()[0].type == line.type && again.value()[0].words == line.words);
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  const std::string_view text(reinterpret_cast<const char*>(data), size);
  const auto lines = parse_table(text);
  if (lines) {
    for (const TableLine& line : lines.value())
      check_line(line);
  } else {
    demand(!lines.error().message.empty());
  }
  if (const auto number = parse_number(text, "fuzz", 1000)) demand(number.value() <= 1000);
  return 0;
}
