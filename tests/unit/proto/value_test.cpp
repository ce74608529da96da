#include "proto/control/value.hpp"

#include <cstdint>
#include <limits>

#include <doctest/doctest.h>

#include "proto/control/message.hpp"

using namespace blockloom::rpc;

namespace {

Value parsed(std::string_view text, const Limits& limits = {}) {
  Value value;
  Failure failure;
  REQUIRE_MESSAGE(parse_value(text, value, failure, limits), failure.message);
  return value;
}

Failure refused(std::string_view text, const Limits& limits = {}) {
  Value value;
  Failure failure;
  REQUIRE_FALSE(parse_value(text, value, failure, limits));
  return failure;
}

std::string nested(std::size_t depth) {
  return std::string(depth, '[') + std::string(depth, ']');
}

}  // namespace

TEST_CASE("a value is written as it was read, members in their order") {
  const std::string text =
      R"({"z":1,"a":[true,false,null],"text":"a\"b\nü","n":-5,"big":18446744073709551615,"f":0.5})";
  CHECK(to_text(parsed(text)) == text);
}

TEST_CASE("whole numbers keep 64 bits, and only they are whole") {
  std::uint64_t n = 0;
  CHECK(parsed("18446744073709551615").unsigned_number(n));
  CHECK(n == std::numeric_limits<std::uint64_t>::max());
  CHECK(parsed("1e3").unsigned_number(n));
  CHECK(n == 1000);
  CHECK_FALSE(parsed("-1").unsigned_number(n));
  CHECK_FALSE(parsed("1.5").unsigned_number(n));
  CHECK_FALSE(parsed("1e300").unsigned_number(n));
  CHECK_FALSE(parsed("\"1\"").unsigned_number(n));
  CHECK_FALSE(parsed("true").unsigned_number(n));
}

TEST_CASE("bytes that are not UTF-8 are written as U+FFFD") {
  CHECK(to_text(Value(std::string("a\xff"
                                  "b"))) ==
        "\"a\xef\xbf\xbd"
        "b\"");
}

TEST_CASE("a text stays one line whatever a string holds") {
  const std::string text = to_text(Value("a\nb\rc\x01"));
  CHECK(text.find('\n') == std::string::npos);
  CHECK(parsed(text).text() == "a\nb\rc\x01");
}

TEST_CASE("a missing member reads as nothing") {
  const Value value = parsed(R"({"a":{"b":"c"}})");
  CHECK(value["a"]["b"].text() == "c");
  CHECK(value["x"]["y"].text().empty());
  CHECK(value["x"].whole() == 0);
  CHECK(value["x"].list().empty());
  CHECK_FALSE(value["a"].flag());
}

TEST_CASE("set replaces a member of that name") {
  Value value = Value::object();
  value.set("a", 1).set("b", 2).set("a", 3);
  CHECK(to_text(value) == R"({"a":3,"b":2})");
}

TEST_CASE("what is not JSON is refused with the place") {
  for (const char* text : {"", "{", "[1,]", "{\"a\"}", "nul", "1 2", "'a'", "\"\xff\"", "{a:1}",
                           "[1e999]", "\"\\ud800\"", "// no\n1"}) {
    CAPTURE(text);
    const Failure failure = refused(text);
    CHECK(failure.code == code::parse_error);
    CHECK(failure.message.find("byte") != std::string::npos);
  }
}

TEST_CASE("depth is bounded, for arrays and objects alike") {
  CHECK(parsed(nested(32)).items());
  CHECK(refused(nested(33)).message == "nested deeper than 32");
  // Far beyond what a recursive parser's stack would bear.
  CHECK(refused(std::string(10'000'000, '[')).code == code::invalid_request);
  std::string objects;
  for (int i = 0; i < 40; ++i)
    objects += "{\"a\":";
  CHECK(refused(objects).code == code::invalid_request);
}

TEST_CASE("the number of values, of members and of bytes is bounded") {
  Limits limits;
  limits.values = 10;
  CHECK(parsed("[1,2,3,4,5,6,7,8,9]", limits).list().size() == 9);
  CHECK(refused("[1,2,3,4,5,6,7,8,9,10]", limits).message == "more than 10 values");
  limits.members = 2;
  CHECK(refused(R"({"a":1,"b":2,"c":3})", limits).message == "an object has more than 2 members");
  limits.bytes = 4;
  CHECK(refused("12345", limits).message == "5 bytes; at most 4 are taken");
}

TEST_CASE("a name that occurs twice in an object is refused") {
  CHECK(refused(R"({"a":1,"a":2})").message == "the name 'a' occurs twice");
}
