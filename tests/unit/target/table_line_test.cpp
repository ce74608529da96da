#include "server/target/table_line.hpp"

#include <random>

#include <doctest/doctest.h>

using namespace blockloom;

namespace {

/// The message of a text that must not parse.
std::string line_refusal(std::string_view text) {
  const auto lines = parse_table(text);
  REQUIRE_FALSE(lines);
  return lines.error().message;
}

TableLine only_line(std::string_view text) {
  auto lines = parse_table(text);
  REQUIRE(lines);
  REQUIRE(lines->size() == 1);
  return lines->front();
}

using Words = std::vector<std::string>;

}  // namespace

TEST_CASE("a line is start, length, type and the type's words") {
  const TableLine line = only_line("0 2048 linear /a.img 16");
  CHECK(line.number == 1);
  CHECK(line.start == Sectors(0));
  CHECK(line.length == Sectors(2048));
  CHECK(line.type == "linear");
  CHECK(line.words == Words{"/a.img", "16"});
}

TEST_CASE("any white space separates, also before, after, and a carriage return") {
  const TableLine line = only_line(" \t0\v1\f zero \r\n");
  CHECK(line.type == "zero");
  CHECK(line.words.empty());
}

TEST_CASE("blank lines and comments are skipped, and still counted") {
  const auto lines = parse_table("# a table\n\n0 1 zero # the first\n  # more\n1 1 error");
  REQUIRE(lines);
  REQUIRE(lines.value().size() == 2);
  CHECK(lines.value()[0].number == 3);
  CHECK(lines.value()[0].words.empty());
  CHECK(lines.value()[1].number == 5);
}

TEST_CASE("a text without lines is an empty table") {
  for (const char* text : {"", "\n", "  ", "# only this"}) {
    CAPTURE(text);
    const auto lines = parse_table(text);
    REQUIRE(lines);
    CHECK(lines.value().empty());
  }
}

TEST_CASE("# inside a word is a part of it") {
  CHECK(only_line("0 1 linear /a#b 0").words[0] == "/a#b");
}

TEST_CASE("a backslash takes the next character literally") {
  CHECK(only_line(R"(0 1 linear /my\ disk 0)").words[0] == "/my disk");
  CHECK(only_line(R"(0 1 linear \#a\\b\c 0)").words[0] == R"(#a\bc)");
  CHECK(only_line("0 1 linear /a\\").words[0] == "/a\\");
}

TEST_CASE("an escaped newline belongs to the word, and counts as a line") {
  const auto lines = parse_table("0 1 linear /a\\\nb 0\n1 0 zero");
  REQUIRE_FALSE(lines);
  CHECK(lines.error().message == "line 3: length '0': expected at least 1 sector");
  CHECK(only_line("0 1 linear /a\\\nb 0").words[0] == "/a\nb");
}

TEST_CASE("a bad line is refused with its number, the word and what was expected") {
  const struct {
    const char *text, *message;
  } rows[] = {
      {"0",
       "line 1: only one of the words START LENGTH TYPE (first: '0'): expected all three, "
       "then the type's arguments"},
      {"\n0 5",
       "line 2: only two of the words START LENGTH TYPE (first: '0'): expected all three, then "
       "the type's arguments"},
      {"x 1 zero",
       "line 1: start 'x': expected a number of 512-byte sectors, at most 18014398509481983"},
      {"0 -1 zero",
       "line 1: length '-1': expected a number of 512-byte sectors, at most 18014398509481983"},
      {"0 1k zero",
       "line 1: length '1k': expected a number of 512-byte sectors, at most 18014398509481983"},
      {"0 0x10 zero",
       "line 1: length '0x10': expected a number of 512-byte sectors, at most 18014398509481983"},
      {"0 0 zero", "line 1: length '0': expected at least 1 sector"},
      {"0 18014398509481984 zero",
       "line 1: length '18014398509481984': expected a number of 512-byte sectors, at most "
       "18014398509481983"},
      {"0 99999999999999999999999 zero",
       "line 1: length '99999999999999999999999': expected a number of 512-byte sectors, at most "
       "18014398509481983"},
      {"1 18014398509481983 zero",
       "line 1: start 1 and length 18014398509481983: expected an end of at most "
       "18014398509481983 sectors"},
      {"0 1 zero\nab\x01 1 zero",
       "line 2: start 'ab?': expected a number of 512-byte sectors, at most 18014398509481983"},
  };
  for (const auto& row : rows) {
    CAPTURE(row.text);
    CHECK(line_refusal(row.text) == row.message);
  }
  CHECK(line_refusal(std::string_view("0 1 zero\0", 9)) ==
        "the table holds a zero byte: expected text");
}

TEST_CASE("the largest end is accepted") {
  CHECK(only_line("0 18014398509481983 zero").length == max_sectors);
}

TEST_CASE("text and lines are bounded") {
  CHECK(parse_table(std::string((16U << 20) + 1, ' ')).code() == Errc::limit);
  std::string many;
  for (int i = 0; i < 1'000'001; ++i)
    many += "0 1 zero\n";
  CHECK(line_refusal(many) == "line 1000001: expected at most 1000000 lines");
}

TEST_CASE("an escaped word reads back as it was") {
  std::mt19937 random(20240607);
  const std::string_view alphabet = "ab/\\# \t\n\v\r\f:é";
  for (int round = 0; round < 2000; ++round) {
    std::string word;
    const auto size = 1 + random() % 12;
    for (std::size_t i = 0; i < size; ++i)
      word += alphabet[random() % alphabet.size()];
    CAPTURE(word);
    const TableLine line = only_line("0 1 t " + escape_word(word) + " end");
    CHECK(line.words == Words{word, "end"});
  }
}

TEST_CASE("parse_number takes digits only, up to a maximum") {
  CHECK(parse_number("007", "n", 7).value() == 7);
  CHECK(parse_number("18446744073709551615", "n", ~0ULL).value() == ~0ULL);
  for (const char* bad : {"", "+1", "-1", " 1", "1 ", "1.0", "one", "١"}) {
    CAPTURE(bad);
    const auto n = parse_number(bad, "chunk size", 100);
    REQUIRE_FALSE(n);
    CHECK(n.code() == Errc::invalid);
    CHECK(n.error().message == std::string("chunk size '") + bad + "': expected a number");
  }
  for (const char* big : {"101", "18446744073709551616"}) {
    CAPTURE(big);
    const auto n = parse_number(big, "chunk size", 100);
    REQUIRE_FALSE(n);
    CHECK(n.error().message ==
          std::string("chunk size '") + big + "': expected a number up to 100");
  }
}
