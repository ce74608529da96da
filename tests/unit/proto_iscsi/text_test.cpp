#include "proto/iscsi/text.hpp"

#include <string>

#include <doctest/doctest.h>

using namespace blockloom::iscsi;
using namespace std::string_literals;

TEST_CASE("text is key=value pairs, each ended by a zero byte") {
  const std::string text = "A=1\0InitiatorName=iqn.x=y\0Empty=\0"s;
  const auto pairs = parse_text(text);
  REQUIRE(pairs.has_value());
  REQUIRE(pairs->size() == 3);
  CHECK((*pairs)[0].key == "A");
  CHECK((*pairs)[0].value == "1");
  CHECK((*pairs)[1].value == "iqn.x=y");  // the first = separates
  CHECK((*pairs)[2].value.empty());
}

TEST_CASE("padding, and a last pair without its zero byte, are taken") {
  CHECK(parse_text("A=1\0\0\0"s)->size() == 1);
  CHECK(parse_text("A=1"s)->size() == 1);
  CHECK(parse_text("").value().empty());
}

TEST_CASE("what is no pair is refused") {
  CHECK_FALSE(parse_text("A\0"s));
  CHECK_FALSE(parse_text("=x\0"s));
  CHECK_FALSE(parse_text("A b=x\0"s));
  CHECK_FALSE(parse_text("1A=x\0"s));
  CHECK_FALSE(parse_text(std::string(64, 'K') + "=x\0"s));
  CHECK(parse_text(std::string(63, 'K') + "=x\0"s));
  CHECK_FALSE(parse_text("A=" + std::string(max_value_length + 1, 'x') + "\0"s));
  std::string many;
  for (std::size_t i = 0; i <= max_pairs; ++i)
    many += "A=x\0"s;
  CHECK_FALSE(parse_text(many));
}

TEST_CASE("pieces add up to a bound") {
  TextAssembler text;
  CHECK(text.add("A=1"));
  CHECK(text.add("23\0"s));
  CHECK(text.text() == "A=123\0"s);
  CHECK(text.add(std::string(TextAssembler::limit - 6, 'x')));
  CHECK_FALSE(text.add("x"));
}

TEST_CASE("numbers are decimal or hexadecimal, and nothing else") {
  CHECK(parse_number("0") == 0);
  CHECK(parse_number("262144") == 262144);
  CHECK(parse_number("0x1F") == 31);
  CHECK(parse_number("0X1f") == 31);
  for (const char* wrong :
       {"", "0x", "-1", "+1", " 1", "1 ", "1.5", "12a", "0xg", "18446744073709551616"})
    CHECK_FALSE(parse_number(wrong));
}

TEST_CASE("binary values: hexadecimal and base64") {
  CHECK(decode_binary("0x0aFF", 8) == "\x0a\xff"s);
  CHECK(decode_binary("0xabc", 8) == "\x0a\xbc"s);  // an odd digit stands alone
  CHECK(decode_binary("0bAAEC", 8) == "\0\1\2"s);
  CHECK(decode_binary("0bAAE=", 8) == "\0\1"s);
  CHECK(decode_binary("0BAA==", 8) == "\0"s);
  CHECK(decode_binary(encode_hex("\x00\xfe\x7f"s), 3) == "\x00\xfe\x7f"s);
}

TEST_CASE("binary values that are malformed or longer than allowed are refused") {
  for (const char* wrong : {"", "0", "0x", "0b", "12", "0xg1", "0bAAE", "0bA===", "0bAA=A",
                            "0bA*==", "0bAAF="})  // bits that padding leaves over
    CHECK_FALSE(decode_binary(wrong, 100));
  CHECK(decode_binary("0x" + std::string(16, 'a'), 8));
  CHECK_FALSE(decode_binary("0x" + std::string(17, 'a'), 8));
  CHECK_FALSE(decode_binary("0bAAECAAEC", 5));
}

TEST_CASE("lists keep their order and their empty items") {
  const auto items = split_list("CRC32C,None,");
  REQUIRE(items.size() == 3);
  CHECK(items[0] == "CRC32C");
  CHECK(items[2].empty());
  CHECK(split_list(std::string(1000, ',')).size() == 64);
}
