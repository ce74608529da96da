#include "tests/unit/leg/leg_test.hpp"

using namespace blockloom;
using namespace blockloom::test;

TEST_CASE("memory starts as one hole of zeroes") {
  auto leg = open("mem:1M");
  CHECK(leg->size() == Bytes(1 << 20));
  CHECK(leg->inline_only());
  CHECK(read(*leg, 0, 1 << 20) == zeroes(1 << 20));
  CHECK(extents(*leg, 0, 1 << 20) == std::vector{Extent{Bytes(1 << 20), true, true}});
}

TEST_CASE("memory takes sizes in bytes and binary units") {
  const struct {
    const char* uri;
    std::uint64_t size;
  } rows[] = {{"mem:512", 512},        {"mem:64K", 64 << 10},  {"mem:64KiB", 64 << 10},
              {"mem:512M", 512 << 20}, {"mem:1G", 1ULL << 30}, {"mem:1T", 1ULL << 40},
              {"mem:1048576", 1 << 20}};
  for (const auto& row : rows) {
    CAPTURE(row.uri);
    CHECK(open(row.uri)->size() == Bytes(row.size));
  }
}

TEST_CASE("memory is written, trimmed and zeroed like a file") {
  auto leg = open("mem:1M");
  const Data data = noise(64 << 10);
  CHECK(write(*leg, 512, data, io_flag::fua) == Errc::ok);
  CHECK(read(*leg, 512, data.size()) == data);
  CHECK(run(*leg, Op::trim, 0, 1 << 20) == Errc::ok);
  CHECK(extents(*leg, 0, 1 << 20) == std::vector{Extent{Bytes(1 << 20), true, true}});
  CHECK(write(*leg, 0, data) == Errc::ok);
  CHECK(run(*leg, Op::zero, 0, 64 << 10) == Errc::ok);
  CHECK(read(*leg, 0, 64 << 10) == zeroes(64 << 10));
  CHECK(run(*leg, Op::flush, 0, 0) == Errc::ok);
}

TEST_CASE("memory without a name is every leg's own") {
  auto one = open("mem:64K"), two = open("mem:64K");
  REQUIRE(write(*one, 0, noise(512)) == Errc::ok);
  CHECK(read(*two, 0, 512) == zeroes(512));
}

TEST_CASE("memory with a name is shared while a leg uses it, and gone after") {
  NamedMemory memories;
  LegContext context{nullptr, &memories};
  const Data data = noise(512);
  {
    auto one = open_leg("mem:64K?name=a", false, context);
    auto two = open_leg("mem:64K?name=a", true, context);
    auto other = open_leg("mem:64K?name=b", false, context);
    REQUIRE(one);
    REQUIRE(two);
    REQUIRE(other);
    REQUIRE(write(**one, 0, data) == Errc::ok);
    CHECK(read(**two, 0, 512) == data);
    CHECK(read(**other, 0, 512) == zeroes(512));
    CHECK(two.value()->read_only());
    one = Error{Errc::io, ""};
    CHECK(read(**two, 0, 512) == data);
  }
  auto again = open_leg("mem:64K?name=a", false, context);
  REQUIRE(again);
  CHECK(read(**again, 0, 512) == zeroes(512));
}

TEST_CASE("named memory keeps its size while in use") {
  NamedMemory memories;
  LegContext context{nullptr, &memories};
  auto one = open_leg("mem:64K?name=a", false, context);
  REQUIRE(one);
  const auto two = open_leg("mem:128K?name=a", false, context);
  REQUIRE_FALSE(two);
  CHECK(two.code() == Errc::invalid);
  CHECK(two.error().message ==
        "leg 'mem:128K?name=a': the memory named 'a' has 65536 bytes: expected that size, or "
        "another name");
}

TEST_CASE("a bad memory URI is refused with what was expected") {
  const std::string bytes = ": expected bytes, such as 65536, 64K, 512M, 1G";
  const std::string range = ": expected a multiple of 512 bytes from 512 to 1T";
  const struct {
    std::string uri, message;
  } rows[] = {
      {"mem:", "size ''" + bytes},
      {"mem:x", "size 'x'" + bytes},
      {"mem:-1G", "size '-1G'" + bytes},
      {"mem:1GB", "size '1GB'" + bytes},
      {"mem:1.5G", "size '1.5G'" + bytes},
      {"mem:99999999T", "size '99999999T'" + bytes},
      {"mem:99999999999999999999", "size '99999999999999999999'" + bytes},
      {"mem:0", "size '0'" + range},
      {"mem:1000", "size '1000'" + range},
      {"mem:2T", "size '2T'" + range},
      {"mem:1M?", "'': expected name= with 1 to 128 characters"},
      {"mem:1M?name=", "'name=': expected name= with 1 to 128 characters"},
      {"mem:1M?nam=x", "'nam=x': expected name= with 1 to 128 characters"},
      {"mem:1M?name=x", "named memory is not available here"},
  };
  for (const auto& row : rows)
    CHECK(refusal(row.uri) == "leg '" + row.uri + "': " + row.message);
}
