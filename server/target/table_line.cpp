#include "server/target/table_line.hpp"

#include <charconv>

#include <fmt/format.h>

namespace blockloom {
namespace {

constexpr std::size_t max_text = 16U << 20;
constexpr std::size_t max_lines = 1'000'000;

// The C locale's isspace(), whatever the process's locale is.
constexpr bool is_space(char c) {
  return c == ' ' || (c >= '\t' && c <= '\r');
}

/// Cuts a text into the words of one line after the other.
class Lexer {
 public:
  explicit Lexer(std::string_view text) : text_(text) {}

  bool at_end() const noexcept { return pos_ == text_.size(); }
  unsigned number() const noexcept { return number_; }

  /// Reads to the end of the line. The words of a blank line or a comment are none.
  std::vector<std::string> next_line() {
    number_ += 1 + pending_newlines_;
    pending_newlines_ = 0;
    std::vector<std::string> words;
    while (skip_space())
      words.push_back(next_word());
    return words;
  }

 private:
  /// True when a word of this line follows; otherwise the line and its newline are consumed.
  bool skip_space() {
    while (!at_end() && text_[pos_] != '\n' && is_space(text_[pos_]))
      ++pos_;
    if (!at_end() && text_[pos_] == '#')
      while (!at_end() && text_[pos_] != '\n')
        ++pos_;
    if (at_end()) return false;
    if (text_[pos_] != '\n') return true;
    ++pos_;
    return false;
  }

  std::string next_word() {
    std::string word;
    for (; !at_end() && !is_space(text_[pos_]); ++pos_) {
      // A backslash before the end of the text stands for itself, as in the kernel.
      if (text_[pos_] == '\\' && pos_ + 1 < text_.size()) {
        ++pos_;
        if (text_[pos_] == '\n') ++pending_newlines_;
      }
      word += text_[pos_];
    }
    return word;
  }

  std::string_view text_;
  std::size_t pos_ = 0;
  unsigned number_ = 0;
  unsigned pending_newlines_ = 0;  // escaped ones: they belong to a word, but count as lines
};

Error at_line(unsigned number, const Error& error) {
  return {error.code, fmt::format("line {}: {}", number, error.message)};
}

Result<TableLine> read_line(std::vector<std::string>&& words) {
  if (words.size() < 3)
    return Error{Errc::invalid,
                 fmt::format("{} of the words START LENGTH TYPE (first: {}): expected all three, "
                             "then the type's arguments",
                             words.size() == 1 ? "only one" : "only two", quoted(words[0]))};
  TableLine line;
  auto start = parse_sectors(words[0], "start");
  if (!start) return start.error();
  auto length = parse_sectors(words[1], "length");
  if (!length) return length.error();
  line.start = *start;
  line.length = *length;
  if (line.length.value == 0) return Error{Errc::invalid, "length '0': expected at least 1 sector"};
  if (line.length > max_sectors - line.start)
    return Error{Errc::invalid,
                 fmt::format("start {} and length {}: expected an end of at most {} sectors",
                             line.start.value, line.length.value, max_sectors.value)};
  line.type = std::move(words[2]);
  line.words.assign(std::make_move_iterator(words.begin() + 3),
                    std::make_move_iterator(words.end()));
  return line;
}

}  // namespace

Result<std::vector<TableLine>> parse_table(std::string_view text) {
  if (text.size() > max_text)
    return Error{Errc::limit,
                 fmt::format("the table has {} bytes: expected at most {}", text.size(), max_text)};
  if (text.find('\0') != text.npos)
    return Error{Errc::invalid, "the table holds a zero byte: expected text"};
  std::vector<TableLine> lines;
  for (Lexer lexer(text); !lexer.at_end();) {
    auto words = lexer.next_line();
    if (words.empty()) continue;
    const unsigned number = lexer.number();
    if (lines.size() == max_lines)
      return Error{Errc::limit,
                   fmt::format("line {}: expected at most {} lines", number, max_lines)};
    auto line = read_line(std::move(words));
    if (!line) return at_line(number, line.error());
    line->number = number;
    lines.push_back(std::move(*line));
  }
  return lines;
}

std::string escape_word(std::string_view word) {
  std::string text;
  text.reserve(word.size());
  for (const char c : word) {
    if (c == '\\' || c == '#' || is_space(c)) text += '\\';
    text += c;
  }
  return text;
}

Result<std::uint64_t> parse_number(std::string_view word, std::string_view what,
                                   std::uint64_t max) {
  std::uint64_t value = 0;
  const auto [end, error] = std::from_chars(word.data(), word.data() + word.size(), value);
  const bool digits = error != std::errc::invalid_argument && end == word.data() + word.size();
  if (!digits)
    return Error{Errc::invalid, fmt::format("{} {}: expected a number", what, quoted(word))};
  if (error == std::errc::result_out_of_range || value > max)
    return Error{Errc::invalid,
                 fmt::format("{} {}: expected a number up to {}", what, quoted(word), max)};
  return value;
}

Result<Sectors> parse_sectors(std::string_view word, std::string_view what) {
  const auto number = parse_number(word, what, max_sectors.value);
  if (number) return Sectors(number.value());
  return Error{number.code(),
               fmt::format("{} {}: expected a number of 512-byte sectors, at most {}", what,
                           quoted(word), max_sectors.value)};
}

}  // namespace blockloom
