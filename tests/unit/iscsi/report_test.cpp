#include <doctest/doctest.h>

#include "tests/unit/iscsi/initiator.hpp"

using namespace blockloom;

namespace {

std::string text_of(const Octets& data, std::size_t from, std::size_t size) {
  return std::string(data.begin() + static_cast<std::ptrdiff_t>(from),
                     data.begin() + static_cast<std::ptrdiff_t>(from + size));
}

Octets part(const Octets& data, std::size_t from, std::size_t size) {
  return Octets(data.begin() + static_cast<std::ptrdiff_t>(from),
                data.begin() + static_cast<std::ptrdiff_t>(from + size));
}

}  // namespace

TEST_CASE("standard INQUIRY data, byte for byte") {
  Bench bench;
  Initiator a(bench.target, bench.executor);
  const Answer answer = a.read({0x12, 0, 0, 1, 0, 0}, 256);
  REQUIRE(answer.good());
  REQUIRE(answer.data.size() == 96);
  CHECK(part(answer.data, 0, 8) == Octets{0x00, 0x00, 0x06, 0x12, 91, 0x18, 0x10, 0x02});
  CHECK(text_of(answer.data, 8, 28) == "BLOCKLM Blockloom disk  0001");
  CHECK(part(answer.data, 36, 22) == blocks_of(22, 0));
  CHECK(part(answer.data, 58, 8) == Octets{0x00, 0xa0, 0x09, 0x60, 0x04, 0x60, 0x04, 0xc0});
  CHECK(part(answer.data, 66, 30) == blocks_of(30, 0));
  CHECK(answer.residual.kind == Residual::Kind::underflow);
  CHECK(answer.residual.count == 160);
}

TEST_CASE("INQUIRY data is cut to the allocation length, and bad fields are refused") {
  Bench bench;
  Initiator a(bench.target, bench.executor);
  CHECK(a.read({0x12, 0, 0, 0, 5, 0}, 5).data.size() == 5);
  CHECK(a.read({0x12, 0, 0, 0, 0, 0}, 0).good());
  CHECK(a.read({0x12, 0, 0x80, 0, 255, 0}, 255).code() == "05/2400");
  CHECK(a.read({0x12, 2, 0, 0, 255, 0}, 255).code() == "05/2400");
  CHECK(a.read({0x12, 1, 0x99, 0, 255, 0}, 255).code() == "05/2400");
  CHECK(a.read({0x12, 0, 0, 0, 96, 4}, 96).code() == "05/2400");  // NACA
}

TEST_CASE("VPD pages: the list is ascending, and every page in it is there") {
  for (const bool thin : {true, false}) {
    UnitOptions options;
    options.thin = thin;
    Bench bench(options);
    Initiator a(bench.target, bench.executor);
    const Octets list = a.read({0x12, 1, 0, 0, 255, 0}, 255).data;
    Octets pages{0x00, 0x80, 0x83, 0x86, 0xb0, 0xb1};
    if (thin) pages.push_back(0xb2);
    CHECK(list == Octets{0, 0, 0, static_cast<std::uint8_t>(pages.size())} + pages);
    for (const std::uint8_t page : pages) {
      const Octets data = a.read({0x12, 1, page, 2, 0, 0}, 512).data;
      REQUIRE(data.size() >= 4);
      CHECK(data[1] == page);
      CHECK(data.size() == 4u + data[2] * 256u + data[3]);
    }
    if (!thin) CHECK(a.read({0x12, 1, 0xb2, 0, 255, 0}, 255).code() == "05/2400");
  }
}

TEST_CASE("block limits and provisioning, byte for byte") {
  Bench bench;
  Initiator a(bench.target, bench.executor);
  const Octets limits = a.read({0x12, 1, 0xb0, 0, 255, 0}, 255).data;
  REQUIRE(limits.size() == 64);
  CHECK(part(limits, 0, 16) == Octets{0, 0xb0, 0, 0x3c, 0, 128, 0, 8, 0, 1, 0, 0, 0, 0, 8, 0});
  CHECK(part(limits, 16, 28) == Octets{0, 0, 0,    0, 0xff, 0xff, 0xff, 0xff, 0, 0, 1, 0, 0, 0,
                                       0, 8, 0x80, 0, 0,    0,    0,    0,    0, 0, 0, 0, 0, 0});
  CHECK(a.read({0x12, 1, 0xb2, 0, 255, 0}, 255).data == Octets{0, 0xb2, 0, 4, 0, 0xe4, 2, 0});
  CHECK(part(a.read({0x12, 1, 0xb1, 0, 255, 0}, 255).data, 0, 6) == Octets{0, 0xb1, 0, 0x3c, 0, 1});
}

TEST_CASE("VPD 83 names the unit by naa, and is the same on every server and after a restart") {
  Octets first;
  for (int i = 0; i < 2; ++i) {
    Bench bench;
    Initiator a(bench.target, bench.executor);
    const Octets data = a.read({0x12, 1, 0x83, 1, 0, 0}, 256).data;
    REQUIRE(data.size() > 16);
    CHECK(part(data, 4, 4) == Octets{0x01, 0x03, 0x00, 0x08});
    CHECK((data[8] & 0xf0) == 0x30);
    if (i == 1) CHECK(data == first);
    first = data;
  }
  Bench bench;
  REQUIRE(bench.registry.create(
      {"named", "6f1c7a34-9bb3-4b52-8d7e-3a9b1f0e2c11", "", "0 2048 linear mem:1M 0", false}));
  bench.target->set_luns({{0, bench.unit(std::string("named"))}});
  Initiator a(bench.target, bench.executor);
  const Octets data = a.read({0x12, 1, 0x83, 1, 0, 0}, 256).data;
  CHECK(data != first);
  const Octets uuid{0x01, 0x0a, 0,    18,   0x10, 0,    0x6f, 0x1c, 0x7a, 0x34, 0x9b,
                    0xb3, 0x4b, 0x52, 0x8d, 0x7e, 0x3a, 0x9b, 0x1f, 0x0e, 0x2c, 0x11};
  CHECK(std::search(data.begin(), data.end(), uuid.begin(), uuid.end()) != data.end());
  CHECK(text_of(a.read({0x12, 1, 0x80, 0, 255, 0}, 255).data, 4, 36) ==
        "6f1c7a34-9bb3-4b52-8d7e-3a9b1f0e2c11");
}

TEST_CASE("VPD 83 names the port and the target") {
  Bench bench;
  Initiator a(bench.target, bench.executor);
  const Octets data = a.read({0x12, 1, 0x83, 1, 0, 0}, 256).data;
  const Octets relative_port{0x51, 0x94, 0, 4, 0, 0, 0, 1};
  CHECK(std::search(data.begin(), data.end(), relative_port.begin(), relative_port.end()) !=
        data.end());
  CHECK(text_of(data, 0, data.size()).find("iqn.2026-11.blockloom:t,t,0x0001") !=
        std::string::npos);
}

TEST_CASE("REPORT LUNS tells the LUNs of the target, also where there is no LUN") {
  Bench bench;
  bench.add_device("b");
  bench.add_device("c");
  const auto first = bench.target->luns()[0].unit;
  bench.target->set_luns(
      {{300, bench.unit(std::string("c"))}, {0, first}, {5, bench.unit(std::string("b"))}});
  Initiator a(bench.target, bench.executor);
  const Octets expected = Octets{0, 0, 0, 24, 0, 0, 0, 0} + Octets{0, 0, 0, 0, 0, 0, 0, 0} +
                          Octets{0, 5, 0, 0, 0, 0, 0, 0} + Octets{0x41, 0x2c, 0, 0, 0, 0, 0, 0};
  const Octets cdb{0xa0, 0, 0, 0, 0, 0, 0, 0, 1, 0, 0, 0};
  CHECK(a.read(cdb, 256).data == expected);
  CHECK(a.read(cdb, 256, 77).data == expected);
  CHECK(a.read({0xa0, 0, 1, 0, 0, 0, 0, 0, 1, 0, 0, 0}, 256).data == blocks_of(8, 0));
  CHECK(a.read({0xa0, 0, 3, 0, 0, 0, 0, 0, 1, 0, 0, 0}, 256).code() == "05/2400");
  CHECK(a.read({0xa0, 0, 0, 0, 0, 0, 0, 0, 0, 15, 0, 0}, 15).code() == "05/2400");
  CHECK(a.read({0x12, 0, 0, 0, 96, 0}, 96, 300).code().empty());
}

TEST_CASE("where there is no LUN, INQUIRY says so and everything else is refused") {
  Bench bench;
  Initiator a(bench.target, bench.executor);
  const Answer inquiry = a.read({0x12, 0, 0, 0, 96, 0}, 96, 9);
  CHECK(inquiry.good());
  CHECK(inquiry.data[0] == 0x7f);
  CHECK(a.read({0x12, 1, 0x83, 0, 96, 0}, 96, 9).code() == "05/2400");
  CHECK(a.run({0, 0, 0, 0, 0, 0}, {}, 0, 9).code() == "05/2500");
  CHECK(a.run({0x2a, 0, 0, 0, 0, 0, 0, 0, 1, 0}, blocks_of(512, 0), 0, 9).code() == "05/2500");
  const Answer sense = a.read({3, 0, 0, 0, 18, 0}, 18, 9);
  CHECK(sense.good());
  CHECK(sense.data[2] == 5);
  CHECK(sense.data[12] == 0x25);
}

TEST_CASE("REQUEST SENSE gives the unit attention as data, once, in either format") {
  Bench bench;
  Initiator a(bench.target, bench.executor);
  CHECK(a.read({3, 0, 0, 0, 252, 0}, 252).data ==
        Octets{0x70, 0, 6, 0, 0, 0, 0, 10, 0, 0, 0, 0, 0x29, 0, 0, 0, 0, 0});
  CHECK(a.run({0, 0, 0, 0, 0, 0}).good());
  CHECK(a.read({3, 1, 0, 0, 252, 0}, 252).data == Octets{0x72, 0, 0, 0, 0, 0, 0, 0});
}

TEST_CASE("REPORT SUPPORTED OPERATION CODES: all, with timeouts, and one") {
  Bench bench;
  Initiator a(bench.target, bench.executor);
  a.settle();
  const Octets all = a.read({0xa3, 0x0c, 0, 0, 0, 0, 0, 0, 0x10, 0, 0, 0}, 4096).data;
  const std::size_t commands = (all.size() - 4) / 8;
  CHECK(all.size() == 4 + 8 * commands);
  CHECK(part(all, 4, 8) == Octets{0x00, 0, 0, 0, 0, 0, 0, 6});
  const Octets timed = a.read({0xa3, 0x0c, 0x80, 0, 0, 0, 0, 0, 0x10, 0, 0, 0}, 4096).data;
  CHECK(timed.size() == 4 + 20 * commands);
  // READ(10), without and with a timeouts descriptor.
  CHECK(a.read({0xa3, 0x0c, 1, 0x28, 0, 0, 0, 0, 1, 0, 0, 0}, 256).data ==
        Octets{0, 3, 0, 10, 0x28, 0x18, 0xff, 0xff, 0xff, 0xff, 0, 0xff, 0xff, 0});
  CHECK(a.read({0xa3, 0x0c, 0x81, 0x28, 0, 0, 0, 0, 1, 0, 0, 0}, 256).data.size() == 14 + 12);
  // READ CAPACITY(16) by service action: its own value stands in the map.
  const Octets capacity = a.read({0xa3, 0x0c, 2, 0x9e, 0, 0x10, 0, 0, 1, 0, 0, 0}, 256).data;
  CHECK(part(capacity, 0, 6) == Octets{0, 3, 0, 16, 0x9e, 0x10});
  CHECK(a.read({0xa3, 0x0c, 1, 0x9e, 0, 0x10, 0, 0, 1, 0, 0, 0}, 256).code() == "05/2400");
  CHECK(a.read({0xa3, 0x0c, 2, 0x28, 0, 0, 0, 0, 1, 0, 0, 0}, 256).code() == "05/2400");
  CHECK(a.read({0xa3, 0x0c, 3, 0x28, 0, 0, 0, 0, 1, 0, 0, 0}, 256).data[1] == 3);
  CHECK(a.read({0xa3, 0x0c, 1, 0x48, 0, 0, 0, 0, 1, 0, 0, 0}, 256).data == Octets{0, 1, 0, 0});
  CHECK(a.read({0xa3, 0x0c, 2, 0x9e, 0, 0x1f, 0, 0, 1, 0, 0, 0}, 256).data == Octets{0, 1, 0, 0});
  CHECK(a.read({0xa3, 0x0c, 4, 0x28, 0, 0, 0, 0, 1, 0, 0, 0}, 256).code() == "05/2400");
}

TEST_CASE("every command that is reported is there, and no other") {
  Bench bench;
  Initiator a(bench.target, bench.executor);
  a.settle();
  const Octets all = a.read({0xa3, 0x0c, 0, 0, 0, 0, 0, 0, 0x10, 0, 0, 0}, 4096).data;
  std::vector<bool> reported(256);
  for (std::size_t at = 4; at < all.size(); at += 8)
    reported[all[at]] = true;
  for (unsigned opcode = 0; opcode < 256; ++opcode) {
    Octets cdb(16);
    cdb[0] = static_cast<std::uint8_t>(opcode);
    cdb[1] = 0xff;  // nothing that would do anything
    const bool unknown = a.read(cdb, 64).code() == "05/2000";
    CHECK(unknown == !reported[opcode]);
  }
}

TEST_CASE("a unit that is not thin has no UNMAP, and does not report it") {
  UnitOptions options;
  options.thin = false;
  Bench bench(options);
  Initiator a(bench.target, bench.executor);
  a.settle();
  CHECK(a.run({0x42, 0, 0, 0, 0, 0, 0, 0, 8, 0}, blocks_of(8, 0)).code() == "05/2000");
  CHECK(a.read({0xa3, 0x0c, 1, 0x42, 0, 0, 0, 0, 1, 0, 0, 0}, 256).data == Octets{0, 1, 0, 0});
  CHECK(a.read({0x9e, 0x10, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 32, 0, 0}, 32).data[14] == 0);
  CHECK(a.run({0x41, 8, 0, 0, 0, 0, 0, 0, 1, 0}, blocks_of(512, 0)).code() == "05/2400");
}

TEST_CASE("REPORT SUPPORTED TASK MANAGEMENT FUNCTIONS, REPORT TARGET PORT GROUPS") {
  Bench bench;
  Initiator a(bench.target, bench.executor);
  a.settle();
  CHECK(a.read({0xa3, 0x0d, 0, 0, 0, 0, 0, 0, 1, 0, 0, 0}, 256).data == Octets{0xda, 0, 0, 0});
  CHECK(a.read({0xa3, 0x0d, 0x80, 0, 0, 0, 0, 0, 1, 0, 0, 0}, 256).data.size() == 16);
  CHECK(a.read({0xa3, 0x0d, 0, 0, 0, 0, 0, 0, 0, 3, 0, 0}, 3).code() == "05/2400");
  CHECK(a.read({0xa3, 0x0a, 0, 0, 0, 0, 0, 0, 1, 0, 0, 0}, 256).data ==
        Octets{0, 0, 0, 12, 0, 1, 0, 1, 0, 0, 0, 1, 0, 0, 0, 1});
  CHECK(a.read({0xa3, 0x2a, 0, 0, 0, 0, 0, 0, 1, 0, 0, 0}, 256).data ==
        Octets{0, 0, 0, 16, 0x10, 0, 0, 0, 0, 1, 0, 1, 0, 0, 0, 1, 0, 0, 0, 1});
  CHECK(a.read({0xa3, 0x4a, 0, 0, 0, 0, 0, 0, 1, 0, 0, 0}, 256).code() == "05/2400");
  CHECK(a.read({0xa3, 0x1f, 0, 0, 0, 0, 0, 0, 1, 0, 0, 0}, 256).code() == "05/2400");
}

TEST_CASE("SANITIZE, and other opcodes that are not there, are refused as such") {
  Bench bench;
  Initiator a(bench.target, bench.executor);
  a.settle();
  for (const std::uint8_t opcode : {0x48, 0x04, 0x07, 0x9c, 0xff, 0x7f, 0xc0})
    CHECK(a.run({opcode, 1, 0, 0, 0, 0, 0, 0, 0, 0}).code() == "05/2000");
}
