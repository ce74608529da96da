#include <doctest/doctest.h>

#include "tests/unit/iscsi/initiator.hpp"

using namespace blockloom;

namespace {

Octets at(std::uint8_t opcode, std::uint8_t flags, std::uint8_t lba, std::uint8_t blocks) {
  return {opcode, flags, 0, 0, 0, lba, 0, 0, blocks, 0};
}

Octets at_16(std::uint8_t opcode, std::uint8_t flags, std::uint8_t lba, std::uint8_t blocks) {
  return {opcode, flags, 0, 0, 0, 0, 0, 0, 0, lba, 0, 0, 0, blocks, 0, 0};
}

Octets unmap_list(std::initializer_list<std::pair<std::uint64_t, std::uint32_t>> ranges) {
  scsi::Output list;
  scsi::append<2>(list, 6 + 16 * ranges.size());
  scsi::append<2>(list, 16 * ranges.size());
  scsi::append<4>(list, 0);
  for (const auto& [lba, blocks] : ranges) {
    scsi::append<8>(list, lba);
    scsi::append<4>(list, blocks);
    scsi::append<4>(list, 0);
  }
  return list;
}

Octets unmap_cdb(const Octets& list) {
  return {0x42, 0, 0, 0, 0, 0, 0, 0, static_cast<std::uint8_t>(list.size()), 0};
}

Octets lba_status_cdb(std::uint8_t lba, std::uint8_t allocation = 255) {
  return {0x9e, 0x12, 0, 0, 0, 0, 0, 0, 0, lba, 0, 0, 0, allocation, 0, 0};
}

}  // namespace

TEST_CASE("READ CAPACITY(10) and (16), byte for byte") {
  Bench bench;
  Initiator a(bench.target, bench.executor);
  a.settle();
  CHECK(a.read({0x25, 0, 0, 0, 0, 0, 0, 0, 0, 0}, 8).data == Octets{0, 0, 7, 0xff, 0, 0, 2, 0});
  Octets expected(32);
  expected[6] = 7, expected[7] = 0xff, expected[10] = 2, expected[13] = 3, expected[14] = 0xc0;
  const Octets cdb{0x9e, 0x10, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 32, 0, 0};
  CHECK(a.read(cdb, 32).data == expected);
  CHECK(a.read({0x9e, 0x10, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 12, 0, 0}, 32).data.size() == 12);
  CHECK(a.read({0x9e, 0x1f, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 32, 0, 0}, 32).code() == "05/2400");
}

TEST_CASE("a device without a table is not ready") {
  Bench bench;
  REQUIRE(bench.registry.create({"empty", "", "", "", false}));
  bench.target->set_luns({{0, bench.unit(std::string("empty"))}});
  Initiator a(bench.target, bench.executor);
  a.settle();
  CHECK(a.run({0, 0, 0, 0, 0, 0}).code() == "02/0400");
  CHECK(a.read({0x25, 0, 0, 0, 0, 0, 0, 0, 0, 0}, 8).code() == "02/0400");
  CHECK(a.read(at(0x28, 0, 0, 1), 512).code() == "02/0400");
  CHECK(a.read({0x12, 0, 0, 0, 96, 0}, 96).data[0] == 0);
}

TEST_CASE("the defect list is empty") {
  Bench bench;
  Initiator a(bench.target, bench.executor);
  a.settle();
  CHECK(a.read({0x37, 0, 0x1d, 0, 0, 0, 0, 0, 64, 0}, 64).data == Octets{0, 0x1d, 0, 0});
  CHECK(a.read({0xb7, 0x0d, 0, 0, 0, 0, 0, 0, 0, 64, 0, 0}, 64).data ==
        Octets{0, 0x0d, 0, 0, 0, 0, 0, 0});
}

TEST_CASE("VERIFY reads, or compares with what is sent, or with one block") {
  Bench bench;
  Initiator a(bench.target, bench.executor);
  a.settle();
  REQUIRE(a.run(at(0x2a, 0, 4, 4), blocks_of(2048, 6)).good());
  CHECK(a.run(at(0x2f, 0, 4, 4)).good());
  CHECK(a.run(at(0x2f, 2, 4, 4), blocks_of(2048, 6)).good());
  Octets other = blocks_of(2048, 6);
  other[2047] = 5;
  CHECK(a.run(at(0x2f, 2, 4, 4), other).code() == "0e/1d00");
  CHECK(a.run(at(0x2f, 0, 4, 4), {}).good());
  CHECK(a.run(at(0x2f, 6, 4, 4), blocks_of(512, 6)).good());
  CHECK(a.run(at(0x2f, 6, 4, 5), blocks_of(512, 6)).code() == "0e/1d00");
  CHECK(a.run(at(0x2f, 4, 4, 4), blocks_of(512, 6)).code() == "05/2400");
  CHECK(a.run(at(0x2f, 0x22, 4, 4), blocks_of(2048, 6)).code() == "05/2400");
  CHECK(a.run({0xaf, 2, 0, 0, 0, 4, 0, 0, 0, 4, 0, 0}, blocks_of(2048, 6)).good());
  CHECK(a.run(at_16(0x8f, 2, 4, 4), other).code() == "0e/1d00");
  CHECK(a.run({0x2f, 0, 0, 0, 8, 0, 0, 0, 0, 0}).code() == "05/2100");
  CHECK(a.run({0x2f, 0, 0, 0, 0, 0, 0, 8, 0, 0}).good());  // all of it, in chunks
}

TEST_CASE("WRITE AND VERIFY writes, and finds what was not written") {
  Bench bench;
  Initiator a(bench.target, bench.executor);
  a.settle();
  CHECK(a.run(at(0x2e, 0, 4, 2), blocks_of(1024, 1)).good());
  CHECK(a.run({0xae, 2, 0, 0, 0, 5, 0, 0, 0, 1, 0, 0}, blocks_of(512, 2)).good());
  CHECK(a.run(at_16(0x8e, 2, 6, 1), blocks_of(512, 3)).good());
  CHECK(a.read(at(0x28, 0, 4, 3), 1536).data ==
        blocks_of(512, 1) + blocks_of(512, 2) + blocks_of(512, 3));
  CHECK(a.run(at(0x2e, 4, 4, 2), blocks_of(1024, 1)).code() == "05/2400");
  CHECK(a.run(at(0x2e, 0x20, 4, 2), blocks_of(1024, 1)).code() == "05/2400");
}

TEST_CASE("UNMAP: what is unmapped reads as zeroes, and the list is checked before anything") {
  Bench bench;
  Initiator a(bench.target, bench.executor);
  a.settle();
  const Octets full = blocks_of(64 * 512, 9);
  REQUIRE(a.run(at(0x2a, 0, 0, 64), full).good());
  const Octets list = unmap_list({{8, 16}, {40, 0}, {50, 1}});
  CHECK(a.run(unmap_cdb(list), list).good());
  CHECK(a.read(at(0x28, 0, 0, 64), 64 * 512).data ==
        blocks_of(8 * 512, 9) + blocks_of(16 * 512, 0) + blocks_of(26 * 512, 9) +
            blocks_of(512, 0) + blocks_of(13 * 512, 9));
  const Octets beyond = unmap_list({{0, 8}, {2047, 2}});
  CHECK(a.run(unmap_cdb(beyond), beyond).code() == "05/2100");
  CHECK(a.read(at(0x28, 0, 0, 1), 512).data == blocks_of(512, 9));
  const Octets wide = unmap_list({{UINT64_MAX, UINT32_MAX}});
  CHECK(a.run(unmap_cdb(wide), wide).code() == "05/2100");
  CHECK(a.run({0x42, 0, 0, 0, 0, 0, 0, 0, 0, 0}).good());
  CHECK(a.run({0x42, 0, 0, 0, 0, 0, 0, 0, 7, 0}, blocks_of(7, 0)).code() == "05/1a00");
  CHECK(a.run({0x42, 0, 0, 0, 0, 0, 0, 0, 8, 0}, blocks_of(8, 0)).good());
  CHECK(a.run({0x42, 1, 0, 0, 0, 0, 0, 0, 24, 0}, list).code() == "05/2400");
  // Lengths that lie.
  Octets lies = unmap_list({{8, 16}});
  lies[2] = lies[3] = 0xff;
  CHECK(a.run(unmap_cdb(lies), lies).good());
}

TEST_CASE("an UNMAP list of more descriptors than VPD B0 says is refused") {
  Bench bench;
  Initiator a(bench.target, bench.executor);
  a.settle();
  scsi::Output list;
  scsi::append<2>(list, 6 + 16 * 257);
  scsi::append<2>(list, 16 * 257);
  list.resize(8 + 16 * 257);
  CHECK(a.run({0x42, 0, 0, 0, 0, 0, 0, 0x10, 0x18, 0}, list).code() == "05/2600");
}

TEST_CASE("WRITE SAME repeats a block, zeroes, unmaps, and to the end by 0 blocks") {
  Bench bench;
  Initiator a(bench.target, bench.executor);
  a.settle();
  Octets block = blocks_of(512, 1);
  block[511] = 2;
  CHECK(a.run(at(0x41, 0, 3, 2), block).good());
  CHECK(a.read(at(0x28, 0, 2, 4), 2048).data ==
        blocks_of(512, 0) + block + block + blocks_of(512, 0));
  CHECK(a.run(at_16(0x93, 8, 3, 1), blocks_of(512, 0)).good());
  CHECK(a.read(at(0x28, 0, 3, 2), 1024).data == blocks_of(512, 0) + block);
  // With UNMAP the range is unmapped, whatever the block holds.
  CHECK(a.run(at_16(0x93, 8, 4, 1), block).good());
  CHECK(a.read(at(0x28, 0, 3, 2), 1024).data == blocks_of(1024, 0));
  auto no_data = a.start(at_16(0x93, 0x01, 3, 2));
  CHECK(no_data->step != TaskStep::wants_data);
  CHECK(a.finish(*no_data).good());
  CHECK(a.read(at(0x28, 0, 3, 2), 1024).data == blocks_of(1024, 0));
  CHECK(a.run(at(0x41, 0, 0, 0), block).good());  // the whole unit
  const Answer end = a.read({0x28, 0, 0, 0, 7, 0xff, 0, 0, 1, 0}, 512);
  CHECK(end.data == block);
  CHECK(a.run({0x41, 0, 0, 0, 7, 0xff, 0, 0, 2, 0}, block).code() == "05/2100");
  CHECK(a.run(at(0x41, 0x20, 0, 1), block).code() == "05/2400");
  CHECK(a.run(at(0x41, 0x10, 0, 1), block).code() == "05/2400");
  CHECK(a.run(at(0x41, 0, 0, 1), block + block).code() == "05/2400");
  CHECK(a.run(at(0x41, 0, 0, 1), Octets(100)).code() == "05/2400");
}

TEST_CASE("GET LBA STATUS tells holes from data, in whole blocks") {
  Bench bench;
  Initiator a(bench.target, bench.executor);
  a.settle();
  REQUIRE(a.run(at(0x41, 0, 0, 0), blocks_of(512, 1)).good());
  const Octets list = unmap_list({{16, 32}});
  REQUIRE(a.run(unmap_cdb(list), list).good());
  const Octets data = a.read(lba_status_cdb(0), 255).data;
  REQUIRE(data.size() == 8 + 3 * 16);
  CHECK(Octets(data.begin(), data.begin() + 8) == Octets{0, 0, 0, 52, 0, 0, 0, 0});
  CHECK(Octets(data.begin() + 8, data.begin() + 24) ==
        Octets{0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 16, 0, 0, 0, 0});
  CHECK(Octets(data.begin() + 24, data.begin() + 40) ==
        Octets{0, 0, 0, 0, 0, 0, 0, 16, 0, 0, 0, 32, 1, 0, 0, 0});
  CHECK(Octets(data.begin() + 40, data.end()) ==
        Octets{0, 0, 0, 0, 0, 0, 0, 48, 0, 0, 7, 0xd0, 0, 0, 0, 0});
  CHECK(a.read(lba_status_cdb(20), 255).data[8 + 11] == 28);
  CHECK(a.read(lba_status_cdb(0, 24), 255).data.size() == 24);
  CHECK(a.read({0x9e, 0x12, 0, 0, 0, 0, 0, 0, 8, 0, 0, 0, 0, 64, 0, 0}, 64).code() == "05/2100");
}

TEST_CASE("COMPARE AND WRITE writes only what is as expected, and says where it was not") {
  Bench bench;
  Initiator a(bench.target, bench.executor);
  a.settle();
  const Octets before = blocks_of(1024, 1), after = blocks_of(1024, 2);
  REQUIRE(a.run(at(0x2a, 0, 4, 2), before).good());
  CHECK(a.run(at_16(0x89, 0, 4, 2), before + after).good());
  CHECK(a.read(at(0x28, 0, 4, 2), 1024).data == after);
  Octets nearly = after;
  nearly[700] = 0;
  const Answer miscompare = a.run(at_16(0x89, 0, 4, 2), nearly + before);
  CHECK(miscompare.code() == "0e/1d00");
  CHECK(Octets(miscompare.sense.begin(), miscompare.sense.begin() + 7) ==
        Octets{0xf0, 0, 0x0e, 0, 0, 2, 0xbc});
  CHECK(a.read(at(0x28, 0, 4, 2), 1024).data == after);
  CHECK(a.run(at_16(0x89, 0, 4, 0)).good());
  CHECK(a.run(at_16(0x89, 0, 4, 0), before).code() == "05/2400");
  CHECK(a.run(at_16(0x89, 0x20, 4, 1), before).code() == "05/2400");
  CHECK(a.run(at_16(0x89, 0, 4, 129), blocks_of(2 * 129 * 512, 0)).code() == "05/2400");
  CHECK(a.run(at_16(0x89, 0, 4, 128), blocks_of(2 * 128 * 512, 0)).code() == "0e/1d00");
  // Neither half of the data, nor more than both.
  CHECK(a.run(at_16(0x89, 0, 4, 2), before).code() == "05/2400");
  CHECK(a.run(at_16(0x89, 0, 4, 1), before + before).code() == "05/2400");
  CHECK(a.run({0x89, 0, 0, 0, 0, 0, 0, 0, 7, 0xff, 0, 0, 0, 2, 0, 0}, before + after).code() ==
        "05/2100");
}

TEST_CASE("ORWRITE sets bits") {
  Bench bench;
  Initiator a(bench.target, bench.executor);
  a.settle();
  REQUIRE(a.run(at(0x2a, 0, 4, 2), blocks_of(1024, 0x0c)).good());
  CHECK(a.run(at_16(0x8b, 0, 4, 2), blocks_of(512, 0x30) + blocks_of(512, 0x05)).good());
  CHECK(a.read(at(0x28, 0, 4, 2), 1024).data == blocks_of(512, 0x3c) + blocks_of(512, 0x0d));
  CHECK(a.run(at_16(0x8b, 0x20, 4, 2), blocks_of(1024, 0)).code() == "05/2400");
  CHECK(a.run(at_16(0x8b, 0, 4, 0)).good());
}

TEST_CASE("COMPARE AND WRITE is a lock between sessions, and against another frontend's writes") {
  Bench bench({}, "fault:[write=delay:50us]:mem:1M");
  Initiator a(bench.target, bench.executor);
  a.settle();
  // Another frontend counts in the second half of the block, over and over.
  std::atomic<bool> stop{false};
  std::thread other([&] {
    auto data = filled(512, 0x55);
    while (!stop)
      CHECK(write_at(bench.device(), 512 * 9, data) == Errc::ok);
  });
  Octets now = blocks_of(512, 0);
  for (int i = 1; i <= 100; ++i) {
    const Octets next = blocks_of(512, i);
    REQUIRE(a.run(at_16(0x89, 0, 8, 1), now + next).good());
    now = next;
  }
  stop = true;
  other.join();
  CHECK(a.read(at(0x28, 0, 8, 2), 1024).data == now + blocks_of(512, 0x55));
}
