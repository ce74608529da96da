#include "proto/dump/netdump.hpp"

#include <doctest/doctest.h>

#include "tests/unit/proto_dump/bytes_for_tests.hpp"

using namespace blockloom::dump;

namespace {

Wire message(std::uint32_t type, std::uint64_t offset, std::string_view payload) {
  Wire wire;
  wire.be(type, 4).be(7, 4).be(offset, 8).be(payload.size(), 4).be(0, 4).text(payload);
  return wire;
}

NetdumpError error_of(const Wire& wire) {
  NetdumpMessage out;
  return parse_netdump(wire, out);
}

bool path_of(std::string_view payload, std::string& path) {
  return parse_herald_path(as_bytes(payload), path);
}

}  // namespace

TEST_CASE("a data packet gives its number, offset and payload") {
  const Wire wire = message(3, 4096, "abc");
  NetdumpMessage out;
  REQUIRE(parse_netdump(wire, out) == NetdumpError::none);
  CHECK(out.type == NetdumpType::vmcore);
  CHECK(out.seqno == 7);
  CHECK(out.offset == 4096);
  CHECK(as_text(out.payload) == "abc");
}

TEST_CASE("what is no message is refused, each for its own reason") {
  CHECK(error_of(Wire().pad_to(23)) == NetdumpError::runt);
  CHECK(error_of(message(0, 0, "")) == NetdumpError::type);
  CHECK(error_of(message(6, 0, "")) == NetdumpError::type);
  Wire lie = message(3, 0, "abc");
  lie.bytes().pop_back();
  CHECK(error_of(lie) == NetdumpError::length);
  CHECK(error_of(message(3, std::uint64_t{1} << 63, "a")) == NetdumpError::overflow);
  CHECK(error_of(message(3, (std::uint64_t{1} << 63) - 2, "ab")) == NetdumpError::overflow);
  CHECK(error_of(message(3, (std::uint64_t{1} << 63) - 2, "a")) == NetdumpError::none);
  CHECK(error_of(message(3, 0, "")) == NetdumpError::payload);
  CHECK(error_of(message(2, 0, "x")) == NetdumpError::payload);
  CHECK(error_of(message(4, 0, std::string(511, 'k'))) == NetdumpError::payload);
  CHECK(error_of(message(4, 1, std::string(512, 'k'))) == NetdumpError::payload);
  CHECK(error_of(message(4, 0, std::string(512, 'k'))) == NetdumpError::none);
  CHECK(error_of(message(1, 0, std::string(1025, 'p'))) == NetdumpError::payload);
}

TEST_CASE("a herald of netgdb is not netdump's") {
  Wire wire;
  wire.be(1, 4).be(1, 4).be(0, 8).be(0, 4).be(1, 4);
  CHECK(error_of(wire) == NetdumpError::type);
}

TEST_CASE("an ack is the number in four bytes, the highest first") {
  const auto ack = netdump_ack(0x01020304);
  CHECK(as_text(ack) == "\x01\x02\x03\x04");
}

TEST_CASE("a herald's path is relative and goes nowhere else") {
  using namespace std::string_view_literals;
  std::string path = "before";
  CHECK(path_of("", path));
  CHECK(path.empty());
  CHECK(path_of("\0"sv, path));
  CHECK(path_of("rack/7\0"sv, path));
  CHECK(path == "rack/7");
  CHECK(path_of("a..b\0"sv, path));
  for (const std::string_view bad : {"abc"sv, "/abs\0"sv, "..\0"sv, "a/../b\0"sv, "a//b\0"sv,
                                     "a\0b\0"sv, "a\nb\0"sv, "a\x7f\0"sv}) {
    CAPTURE(bad);
    CHECK_FALSE(path_of(bad, path));
  }
}
