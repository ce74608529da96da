#include "proto/scsi/copy.hpp"

#include <doctest/doctest.h>

#include "proto/scsi/identity.hpp"
#include "tests/unit/iscsi/initiator.hpp"

using namespace blockloom;

namespace {

struct Segment {
  std::uint16_t source, destination, blocks;
  std::uint64_t from, to;
};

Octets target_of(const scsi::Identity& identity, std::uint8_t flags = 0) {
  Octets d(32);
  d[0] = 0xe4;
  d[1] = flags;
  d[4] = 1;
  d[5] = 3;
  d[7] = 8;
  std::copy(identity.naa.begin(), identity.naa.end(), d.begin() + 8);
  d[30] = 2;
  return d;
}

Octets segment_of(const Segment& s) {
  Octets d(28);
  d[0] = 2;
  d[3] = 24;
  scsi::store<2>(&d[4], s.source);
  scsi::store<2>(&d[6], s.destination);
  scsi::store<2>(&d[10], s.blocks);
  scsi::store<8>(&d[12], s.from);
  scsi::store<8>(&d[20], s.to);
  return d;
}

Octets list_of(const std::vector<Octets>& targets, const std::vector<Octets>& segments,
               std::uint8_t id = 1, std::uint8_t usage = 0) {
  Octets list(16);
  list[0] = id;
  list[1] = static_cast<std::uint8_t>(usage << 3);
  std::size_t target_bytes = 0, segment_bytes = 0;
  for (const Octets& t : targets) {
    list = list + t;
    target_bytes += t.size();
  }
  for (const Octets& s : segments) {
    list = list + s;
    segment_bytes += s.size();
  }
  scsi::store<2>(&list[2], target_bytes);
  scsi::store<4>(&list[8], segment_bytes);
  return list;
}

Answer copy(Initiator& from, const Octets& list) {
  Octets cdb(16);
  cdb[0] = 0x83;
  scsi::store<4>(&cdb[10], list.size());
  return from.run(cdb, list);
}

Answer results(Initiator& from, std::uint8_t action, std::uint8_t id = 0) {
  return from.read({0x84, action, id, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 0, 0, 0}, 256);
}

struct Copying : Bench {
  Initiator a{target, executor};
  scsi::Identity first = scsi::identity_of("disk"), second = scsi::identity_of("second");
  Copying() {
    add_device("second");
    target->set_luns({{0, target->luns()[0].unit}, {1, unit(std::string("second"))}});
    a.settle(0);
    a.settle(1);
  }
};

}  // namespace

TEST_CASE("EXTENDED COPY copies inside a unit, and to another") {
  Copying bench;
  Octets data;
  for (int i = 0; i < 64; ++i)
    data = data + blocks_of(512, i);
  REQUIRE(bench.a.run({0x2a, 0, 0, 0, 0, 0, 0, 0, 64, 0}, data).good());
  const Octets list = list_of({target_of(bench.first), target_of(bench.second)},
                              {segment_of({0, 0, 64, 0, 1984}), segment_of({0, 1, 32, 32, 8})});
  CHECK(copy(bench.a, list).good());
  CHECK(bench.a.read({0x28, 0, 0, 0, 7, 0xc0, 0, 0, 64, 0}, 64 * 512).data == data);
  CHECK(bench.a.read({0x28, 0, 0, 0, 0, 8, 0, 0, 32, 0}, 32 * 512, 1).data ==
        Octets(data.begin() + 32 * 512, data.end()));
  CHECK(results(bench.a, 0, 1).data == Octets{0, 0, 0, 8, 1, 0, 2, 0, 0, 0, 0xc0, 0});
  CHECK(results(bench.a, 4, 1).data == Octets{0, 0, 0, 0});
  CHECK(results(bench.a, 0, 2).code() == "05/2400");
}

TEST_CASE("a copy of a whole unit goes in chunks") {
  Copying bench;
  REQUIRE(bench.a.run({0x41, 0, 0, 0, 0, 0, 0, 0, 0, 0}, blocks_of(512, 5)).good());
  CHECK(copy(bench.a, list_of({target_of(bench.first), target_of(bench.second)},
                              {segment_of({0, 1, 2048, 0, 0})}))
            .good());
  CHECK(bench.a.read({0x28, 0, 0, 0, 7, 0xff, 0, 0, 1, 0}, 512, 1).data == blocks_of(512, 5));
}

TEST_CASE("copies that cannot be are refused, and say why") {
  Copying bench;
  const Octets good = target_of(bench.first);
  const auto code = [&](const std::vector<Octets>& targets, const std::vector<Octets>& segments) {
    return copy(bench.a, list_of(targets, segments)).code();
  };
  CHECK(code({good}, {segment_of({0, 1, 8, 0, 8})}) == "0a/0d02");
  CHECK(code({good}, {segment_of({0, 0, 8, 0, 2047})}) == "0a/0000");
  CHECK(code({good}, {segment_of({0, 0, 8, UINT64_MAX, 0})}) == "0a/0000");
  CHECK(code({target_of(scsi::identity_of("none"))}, {segment_of({0, 0, 8, 0, 8})}) == "0a/0d02");
  CHECK(code({target_of(bench.first, 0x20)}, {segment_of({0, 0, 8, 0, 8})}) == "0a/0d02");
  CHECK(results(bench.a, 0, 1).data[4] == 2);
  CHECK(code({target_of(bench.first, 0xc0)}, {segment_of({0, 0, 8, 0, 8})}).empty());
  Octets bad = good;
  bad[0] = 0xe0;
  CHECK(code({bad}, {segment_of({0, 0, 8, 0, 8})}) == "05/2607");
  bad = segment_of({0, 0, 8, 0, 8});
  bad[0] = 3;
  CHECK(code({good}, {bad}) == "05/2609");
  CHECK(code(std::vector(9, good), {segment_of({0, 0, 8, 0, 8})}) == "05/2606");
  CHECK(code({good}, std::vector(17, segment_of({0, 0, 8, 0, 8}))) == "05/2608");
  CHECK(code(std::vector(9, good), std::vector(17, segment_of({0, 0, 8, 0, 8}))) == "05/1a00");
  Octets list = list_of({good}, {segment_of({0, 0, 8, 0, 8})});
  list.pop_back();
  CHECK(copy(bench.a, list).code() == "05/1a00");
  list[15] = 1;
  CHECK(copy(bench.a, list).code() == "05/260b");
  CHECK(copy(bench.a, {}).good());
  CHECK(copy(bench.a, Octets(8)).code() == "05/1a00");
  CHECK(copy(bench.a, Octets(scsi::copy_list_bytes + 1)).code() == "05/1a00");
}

TEST_CASE("a copy goes by the other unit's reservations and write protection") {
  Copying bench;
  Initiator b(bench.target, bench.executor, "b");
  b.settle(1);
  REQUIRE(b.run({0x16, 0, 0, 0, 0, 0}, {}, 0, 1).good());
  const Octets list =
      list_of({target_of(bench.first), target_of(bench.second)}, {segment_of({0, 1, 8, 0, 0})});
  CHECK(copy(bench.a, list).status == scsi::Status::reservation_conflict);
  REQUIRE(b.run({0x17, 0, 0, 0, 0, 0}, {}, 0, 1).good());
  Octets page(16);
  page[4] = 0x0a, page[5] = 10, page[6] = 2, page[7] = 0x10, page[8] = 8,
  page[12] = page[13] = 0xff;
  REQUIRE(b.run({0x15, 0x10, 0, 0, 16, 0}, page, 0, 1).good());
  CHECK(copy(bench.a, list).code() == "07/2700");
}

TEST_CASE("the operating parameters, byte for byte") {
  Copying bench;
  const Octets data = results(bench.a, 3).data;
  REQUIRE(data.size() == 46);
  CHECK(Octets(data.begin(), data.begin() + 20) ==
        Octets{0, 0, 0, 42, 1, 0, 0, 0, 0, 8, 0, 16, 0, 0, 2, 0xc0, 0x10, 0, 0, 0});
  CHECK(Octets(data.begin() + 34, data.end()) == Octets{0, 1, 1, 9, 0, 0, 0, 0, 0, 2, 2, 0xe4});
}
