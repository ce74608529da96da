#include <cstddef>
#include <cstdint>
#include <string>

#include "server/dump/catalogue.hpp"
#include "tests/fuzz/demand.hpp"

// A dump store's catalogue as hostile bytes. The first byte chooses: a payload as it is, or a
// superblock and a generation with a checksum that fits, so that the fields behind it are reached.
namespace {

using namespace blockloom;
using namespace blockloom::dump;

constexpr std::uint64_t data_begin = 66, blocks = 4096;

void payload(ByteView bytes) {
  const auto parsed = parse_catalogue(bytes, data_begin, blocks);
  if (!parsed) return;
  const std::string text = catalogue_text(parsed.value());
  const auto again = parse_catalogue(as_bytes(text), data_begin, blocks);
  demand(bool(again) && again.value() == parsed.value());
  for (const auto& [id, dump] : parsed.value().dumps)
    for (const BlockRun& run : dump.image)
      demand(run.begin >= data_begin && run.end() <= blocks);
}

void with_checksum(ByteView bytes) {
  std::string block(as_text(bytes.first(std::min<std::size_t>(bytes.size(), store_block - 4))));
  Superblock superblock;
  superblock.slot_blocks = 32;
  // The magic and the checksum are no riddle for the fuzzer.
  const std::string good = superblock_text(superblock);
  const std::string header = generation_text({}, superblock.uuid);
  for (const std::string& like : {good, header}) {
    std::string made = block;
    made.resize(store_block);
    made.replace(0, 8, like, 0, 8);
    made = checked_block(std::move(made));
    if (const auto parsed = parse_superblock(as_bytes(made), blocks))
      demand(parsed.value().data_begin() < blocks);
    if (const auto parsed = parse_generation(as_bytes(made), superblock))
      demand(parsed.value().length <= 31 * store_block);
  }
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  if (size == 0) return 0;
  const ByteView bytes(reinterpret_cast<const std::byte*>(data + 1), size - 1);
  if (data[0] % 2 == 0)
    payload(bytes);
  else
    with_checksum(bytes);
  return 0;
}
