#include "server/device/table.hpp"

#include <random>

#include <doctest/doctest.h>
#include <fmt/format.h>

#include "tests/unit/device/helpers.hpp"

using namespace blockloom;

namespace {

std::string refused(const std::string& text) {
  LegContext context;
  const auto table = Table::create(text, false, context);
  return table ? "accepted" : table.error().message;
}

/// Fills a device sector by sector with its own number, and reads it back through pieces.
void write_numbers(Device& device) {
  auto data = filled(device.size().value, 0);
  for (std::size_t i = 0; i < data.size(); i += sector_size)
    std::memcpy(&data[i], &i, sizeof i);
  REQUIRE(write_at(device, 0, data) == Errc::ok);
}

void check_numbers(Device& device, std::uint64_t offset, std::uint64_t length) {
  auto data = filled(length, 0xff);
  REQUIRE(read_at(device, offset, data) == Errc::ok);
  for (std::size_t i = 0; i < length; i += sector_size) {
    std::size_t number = 0;
    std::memcpy(&number, &data[i], sizeof number);
    REQUIRE(number == offset + i);
  }
}

}  // namespace

TEST_CASE("a table that does not fit together names the line, the value and what was expected") {
  CHECK(refused("") == "the table is empty: expected lines of \"START LENGTH TYPE ARGUMENTS\"");
  CHECK(refused("0 8 zero\n16 8 zero") ==
        "line 2: start sector '16' leaves a gap after what stands before it: expected 8");
  CHECK(refused("0 8 zero\n4 8 zero") ==
        "line 2: start sector '4' overlaps what stands before it: expected 8");
  CHECK(refused("8 8 zero").starts_with("line 1: start sector '8' leaves a gap"));
  CHECK(refused("0 8 nonesuch").starts_with("line 1: unknown target type 'nonesuch': expected "));
  CHECK(refused("0 4096 linear mem:1M 0") ==
        "line 1: leg 'mem:1M' is too small: it has 2048 sectors, and the target needs 4096 from "
        "sector 0 on");
  CHECK(refused("0 2048 linear mem:1M 1").find("too small") != std::string::npos);
  CHECK(refused("0 2048 linear dev:other 0").find("dev:other") != std::string::npos);
}

TEST_CASE("every sector of many segments is found, whatever its neighbours") {
  Registry registry;
  std::string table;
  std::mt19937 random(1);
  std::uint64_t start = 0;
  for (int i = 0; i < 257; ++i) {
    const std::uint64_t length = 1 + random() % 9;
    table += fmt::format("{} {} linear mem:8M {}\n", start, length, (start * 3) % 8192);
    start += length;
  }
  // Overlapping images of one memory would overwrite each other: give each a place of its own.
  table.clear();
  start = 0;
  for (int i = 0; i < 257; ++i) {
    const std::uint64_t length = 1 + random() % 9;
    table += fmt::format("{} {} linear mem:8M {}\n", start, length, 16 * ((i * 101) % 257));
    start += length;
  }
  REQUIRE(registry.create({"many", "", "", table, false}));
  const auto device = device_of(registry, "many");
  write_numbers(*device);
  for (std::uint64_t sector = 0; sector < start; ++sector)
    check_numbers(*device, sector * sector_size, sector_size);
  check_numbers(*device, 0, start * sector_size);
}

TEST_CASE("requests are split at chunks and segments, and put together again") {
  Registry registry;
  REQUIRE(registry.create({"s", "", "",
                           "0 768 striped 3 8 mem:1M 0 mem:1M?name=b 16 mem:1M?name=c 8\n"
                           "768 100 linear mem:1M 512\n"
                           "868 56 striped 2 4 mem:64K 0 mem:64K?name=d 0",
                           false}));
  const auto device = device_of(registry, "s");
  write_numbers(*device);
  std::mt19937 random(2);
  const std::uint64_t sectors = device->size().value / sector_size;
  for (int i = 0; i < 300; ++i) {
    const std::uint64_t first = random() % sectors;
    const std::uint64_t count = 1 + random() % (sectors - first);
    check_numbers(*device, first * sector_size, count * sector_size);
  }
}

TEST_CASE("pieces that end later, more than one batch of them, are one request") {
  Registry registry;
  REQUIRE(registry.create({"slow", "", "",
                           "0 1024 striped 2 1 fault:[read=delay:1ms]:mem:1M 0 mem:1M?name=q 0",
                           false}));
  const auto device = device_of(registry, "slow");
  write_numbers(*device);
  check_numbers(*device, 0, device->size().value);
}

TEST_CASE("a failing piece fails the write; the others are written, as in device-mapper") {
  // With the delay the pieces may end later, and go through the other of the two loops.
  for (const std::string last : {"linear mem:1M 16", "delay mem:1M 16 0"}) {
    Registry registry;
    REQUIRE(
        registry.create({"bad", "", "", "0 8 linear mem:1M 0\n8 8 error\n16 8 " + last, false}));
    const auto device = device_of(registry, "bad");
    auto data = filled(24 * sector_size, 3);
    CHECK(write_at(*device, 0, data) == Errc::io);
    for (const std::uint64_t sector : {0, 16}) {
      auto piece = filled(8 * sector_size, 9);
      CHECK(read_at(*device, sector * sector_size, piece) == Errc::ok);
      CHECK(piece == filled(8 * sector_size, 3));
    }
    auto whole = filled(24 * sector_size, 9);
    CHECK(read_at(*device, 0, whole) == Errc::io);
    CHECK(Waiter(*device, Op::zero, Bytes(0), Bytes(24 * sector_size)).run() == Errc::io);
    auto piece = filled(8 * sector_size, 9);
    CHECK(read_at(*device, 16 * sector_size, piece) == Errc::ok);
    CHECK(piece == filled(8 * sector_size, 0));
  }
}

TEST_CASE("a flush reaches each leg once, however many segments lie on it") {
  Registry registry;
  std::string table;
  for (int i = 0; i < 100; ++i)
    table +=
        fmt::format("{} 8 linear {} {}\n", 8 * i, i % 2 ? "mem:1M" : "mem:1M?name=other", 8 * i);
  REQUIRE(registry.create({"f", "", "", table, false}));
  const auto device = device_of(registry, "f");
  const auto before = device->leg_infos();
  REQUIRE(before.size() == 2);
  CHECK(Waiter(*device, Op::flush, Bytes(0), Bytes(0)).run() == Errc::ok);
  const auto after = device->leg_infos();
  for (int i = 0; i < 2; ++i)
    CHECK(after[i].totals.others - before[i].totals.others == 1);
}

TEST_CASE("a flush goes to every leg even when the first one fails, and fails") {
  Registry registry;
  REQUIRE(registry.create(
      {"f", "", "", "0 8 linear fault:[flush=error]:mem:1M 0\n8 8 linear mem:1M 0", false}));
  const auto device = device_of(registry, "f");
  CHECK(Waiter(*device, Op::flush, Bytes(0), Bytes(0)).run() == Errc::io);
  CHECK(device->leg_infos()[1].totals.others == 1);
}

TEST_CASE("trim and zero of a stripe set are one request to each leg") {
  Registry registry;
  REQUIRE(registry.create({"t", "", "", "0 1024 striped 2 8 mem:1M 0 mem:1M?name=z 0", false}));
  const auto device = device_of(registry, "t");
  write_numbers(*device);
  const auto before = device->leg_infos();
  CHECK(Waiter(*device, Op::zero, Bytes(12 * 512), Bytes(500 * 512)).run() == Errc::ok);
  const auto after = device->leg_infos();
  for (int i = 0; i < 2; ++i)
    CHECK(after[i].totals.others - before[i].totals.others == 1);
  auto middle = filled(500 * 512, 1);
  CHECK(read_at(*device, 12 * 512, middle) == Errc::ok);
  CHECK(middle == filled(500 * 512, 0));
  check_numbers(*device, 0, 12 * 512);
  check_numbers(*device, 512 * 512, 512 * 512);
}

TEST_CASE("extents follow the legs across segments: data, holes, zeroes") {
  Registry registry;
  REQUIRE(registry.create(
      {"e", "", "", "0 256 linear mem:1M 0\n256 256 zero\n512 256 linear mem:1M?name=x 0", false}));
  const auto device = device_of(registry, "e");
  auto data = filled(65536, 1);
  REQUIRE(write_at(*device, 0, data) == Errc::ok);
  Extents extents;
  Waiter w(*device, Op::extents, Bytes(0), device->size());
  w.request.extents = &extents;
  REQUIRE(w.run() == Errc::ok);
  REQUIRE(extents.list().size() == 2);
  CHECK(extents.list()[0] == Extent{Bytes(65536), false, false});
  CHECK(extents.list()[1] == Extent{Bytes(768 * 512 - 65536), true, true});

  Extents one;
  Waiter w1(*device, Op::extents, Bytes(4096), Bytes(4096));
  w1.request.extents = &one;
  w1.request.flags = io_flag::one_extent;
  REQUIRE(w1.run() == Errc::ok);
  CHECK(one.list().front() == Extent{Bytes(4096), false, false});
}

TEST_CASE("extents over an error segment fail, and before it they end") {
  Registry registry;
  REQUIRE(registry.create({"e", "", "", "0 8 zero\n8 8 error", false}));
  const auto device = device_of(registry, "e");
  Extents extents;
  Waiter bad(*device, Op::extents, Bytes(8 * 512), Bytes(512));
  bad.request.extents = &extents;
  CHECK(bad.run() == Errc::io);
}

TEST_CASE("table and status texts are dmsetup's, and the table's text loads again") {
  Registry registry;
  const std::string table = "0 2048 linear mem:2M 0\n2048 1024 striped 2 16 mem:2M 2048 mem:1M 0\n";
  REQUIRE(registry.create({"r", "", "", table, false}));
  const auto device = device_of(registry, "r");
  CHECK(device->table_text(false) == table);
  CHECK(device->status_text(false) == "0 2048 linear \n2048 1024 striped 2 mem:2M mem:1M 1 AA\n");
  REQUIRE(registry.load("r", device->table_text(false), false));
  CHECK(device->table_text(true) == table);
}

TEST_CASE("one unnamed memory for two places is refused: it would silently be one") {
  CHECK(refused("0 2048 striped 2 8 mem:1M 0 mem:1M 0") ==
        "line 1: leg 'mem:1M' is used twice for the same sectors: give two memories "
        "names, as in mem:1G?name=a");
  CHECK(refused("0 8 linear mem:1M 0\n8 8 linear mem:1M 7").find("used twice") !=
        std::string::npos);
  CHECK(refused("0 8 linear mem:1M 9\n8 8 linear mem:1M 2").find("used twice") !=
        std::string::npos);
  CHECK(refused("0 8 linear fault:[]:mem:1M 0\n8 8 linear fault:[]:mem:1M 0").find("used twice") !=
        std::string::npos);
  CHECK(refused("0 8 linear mem:1M 8\n8 8 linear mem:1M 0\n16 8 linear mem:1M 16") == "accepted");
  CHECK(refused("0 8 delay mem:1M 0 1 mem:1M 0 1") == "accepted");
}

TEST_CASE("one extent over a stack ends where the lower device's answer ends") {
  Registry registry;
  REQUIRE(registry.create(
      {"low", "", "", "0 2048 linear mem:1M?name=p 0\n2048 2048 linear mem:1M?name=q 0", false}));
  REQUIRE(registry.create(
      {"up", "", "", "0 2048 linear mem:1M?name=h 0\n2048 4096 linear dev:low 0", false}));
  auto data = filled(4096, 1);
  REQUIRE(write_at(*device_of(registry, "low"), 512 * 1024, data) == Errc::ok);
  Extents extents;
  const auto up = device_of(registry, "up");
  Waiter w(*up, Op::extents, Bytes(0), up->size());
  w.request.extents = &extents;
  w.request.flags = io_flag::one_extent;
  REQUIRE(w.run() == Errc::ok);
  REQUIRE_FALSE(extents.list().empty());
  CHECK(extents.list().front() == Extent{Bytes((1 << 20) + 512 * 1024), true, true});
}
