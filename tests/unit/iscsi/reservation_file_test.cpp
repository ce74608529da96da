#include "server/iscsi/reservation_file.hpp"

#include <filesystem>
#include <fstream>

#include <doctest/doctest.h>

#include "tests/unit/iscsi/reserving.hpp"

using namespace blockloom;
using namespace blockloom::reserving;

TEST_CASE("reservations with APTPL outlive the server, the others do not") {
  Registry registry;
  TemporaryFolder folder;
  LogicalUnits::Options options;
  options.folder = folder.path / "reservations";
  REQUIRE(registry.create({"disk", "", "", "0 2048 linear mem:1M 0", false}));
  UnitOptions unit;
  unit.device = "disk";
  for (int start = 0; start < 4; ++start) {
    Executor executor;
    const auto units = LogicalUnits::create(registry, options);
    const auto target = ScsiTarget::create("iqn.2026-11.blockloom:t", units);
    auto opened = units->open(unit);
    REQUIRE(opened);
    target->set_luns({{0, opened.value()}});
    Initiator a(target, executor, "a"), b(target, executor, "b");
    a.settle();
    b.settle();
    switch (start) {
      case 0:
        REQUIRE(out(a, reg, 0, 1, 0, 0x01).good());
        REQUIRE(out(b, reg, 0, 2, 0, 0x01).good());
        REQUIRE(out(a, reserve, 1, 0, 5).good());
        CHECK(in(a, 2)[3] == 0x81);
        break;
      case 1:
        CHECK(in(a, 0) == keys(0, {1, 2}));
        CHECK(in(a, 1) == reservation(0, 1, 5));
        CHECK(b.run(write_1, blocks_of(512, 0)).good());
        CHECK(opened.value()->info().registrations[0].holder);
        REQUIRE(out(b, clear, 2, 0).good());
        break;
      case 2:
        CHECK(in(a, 0) == keys(0, {}));
        REQUIRE(out(a, reg, 0, 1).good());
        break;
      default:
        CHECK(in(a, 0) == keys(0, {}));
    }
  }
}

TEST_CASE("APTPL without a place to keep it is refused") {
  Registry registry;
  REQUIRE(registry.create({"disk", "", "", "0 2048 linear mem:1M 0", false}));
  Executor executor;
  const auto units = LogicalUnits::create(registry, {});
  const auto target = ScsiTarget::create("iqn.2026-11.blockloom:t", units);
  UnitOptions unit;
  unit.device = "disk";
  target->set_luns({{0, units->open(unit).value()}});
  Initiator a(target, executor);
  a.settle();
  CHECK(out(a, reg, 0, 1, 0, 0x01).code() == "05/2600");
  CHECK(out(a, reg, 0, 1).good());
  CHECK(in(a, 2)[2] == 0x0c);
}

TEST_CASE("a reservation that cannot be saved is not made") {
  Two two;
  // A file where the folder should be.
  std::ofstream(two.folder.path / "reservations").put('x');
  CHECK(out(two.a, reg, 0, 1, 0, 0x01).code() == "04/4400");
  CHECK(in(two.a, 0) == keys(0, {}));
  CHECK(out(two.a, reg, 0, 1).good());
}

TEST_CASE("a damaged file of reservations is told, with its name") {
  TemporaryFolder folder;
  const std::string path = folder.path / "pr";
  std::filesystem::create_directory(path);
  Reservations some;
  scsi::ReserveOutList list;
  list.action_key = 5;
  list.aptpl = true;
  const NexusPorts ports{{"iqn.2026-11.test:a", std::array<std::uint8_t, 6>{1, 2, 3, 4, 5, 6}},
                         "iqn.2026-11.blockloom:t",
                         1};
  CHECK(some.out(scsi::ReserveOut::register_key, 0, ports, list).changed);
  REQUIRE(write_reservations(path, "naa.3", some));
  auto read = read_reservations(path, "naa.3");
  REQUIRE(read);
  CHECK(read.value().registrations() == some.registrations());
  for (const std::string& bytes : {std::string("CRC32C 00000000\nblockloom-reservations 1\n"),
                                   std::string(), std::string("x")}) {
    std::ofstream(path + "/naa.3", std::ios::trunc) << bytes;
    const auto damaged = read_reservations(path, "naa.3");
    CHECK(damaged.code() == Errc::corrupt);
    CHECK(damaged.error().message.find("naa.3") != std::string::npos);
  }
}

TEST_CASE("the text of saved reservations reads back, and nothing else does") {
  const std::string head = "blockloom-reservations 1\n";
  const std::string line = "0000000000000005 iqn.x:a 010203040506 iqn.x:t 1 0 1\n";
  CHECK(Reservations::load(head + "type 5\n" + line));
  CHECK(Reservations::load(head + "type 5\n" + line).value().save() == head + "type 5\n" + line);
  for (const std::string& bad :
       {std::string("blockloom-reservations 2\n"), head + "type 4\n" + line,
        head + "type 0\n" + line, head + "type 5\n" + line + line, head + "type 5\n",
        head + "type 5\nx\n", head + "type 5\n0000000000000005 iqn.x:a 0102030405 iqn.x:t 1 0 1\n",
        head + "type 5\n0000000000000000 iqn.x:a 010203040506 iqn.x:t 1 0 1\n",
        head + "type 5\n" + line.substr(0, 20)})
    CHECK(Reservations::load(bad).code() == Errc::corrupt);
}
