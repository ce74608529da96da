#pragma once

#include <limits>
#include <string>
#include <string_view>
#include <vector>

#include "server/base/error.hpp"
#include "server/base/units.hpp"

namespace blockloom {

/// What dm's grammar calls an unsigned int.
inline constexpr std::uint64_t max_u32 = std::numeric_limits<std::uint32_t>::max();

/// One line of a table: "START LENGTH TYPE ARGUMENT…", sectors of 512 bytes.
struct TableLine {
  unsigned number = 0;  ///< in the text, from 1, for messages
  Sectors start;
  Sectors length;
  std::string type;
  std::vector<std::string> words;
};

/// Splits a text into lines, skips blank ones and comments (# to the end of a line, where a word
/// could start), and reads the three leading words of each. As in device-mapper a backslash takes
/// the next character literally. Checks each line by itself: numbers, a length over 0, no
/// overflow; whether lines fit together is the table's to check. Bounded: at most 16 MiB of text
/// and 1,000,000 lines. Errors name the line and the word, and say what was expected.
Result<std::vector<TableLine>> parse_table(std::string_view text);

/// Writes a word so that parse_table() reads it back: escapes white space, backslash and #.
std::string escape_word(std::string_view word);

/// Reads a decimal number without sign or trailing text. `what` names it in the error:
/// "chunk size '12x': expected …".
Result<std::uint64_t> parse_number(std::string_view word, std::string_view what, std::uint64_t max);
Result<Sectors> parse_sectors(std::string_view word, std::string_view what);

}  // namespace blockloom
