#include "server/leg/scsi_disk.hpp"

#include <algorithm>

#include "tests/unit/leg/leg_test.hpp"

using namespace blockloom;
using namespace blockloom::disk;

namespace {

using Raw = std::vector<std::uint8_t>;

Raw capacity_16(std::uint64_t last, std::uint32_t block, std::uint8_t flags = 0) {
  Raw bytes(32);
  for (int i = 0; i < 8; ++i)
    bytes[static_cast<std::size_t>(i)] = static_cast<std::uint8_t>(last >> (56 - 8 * i));
  for (int i = 0; i < 4; ++i)
    bytes[8 + static_cast<std::size_t>(i)] = static_cast<std::uint8_t>(block >> (24 - 8 * i));
  bytes[14] = flags;
  return bytes;
}

}  // namespace

TEST_CASE("reads and writes have ten bytes where they fit, and sixteen where not") {
  const Cdb small = read(0x01020304, 0x0506);
  CHECK(small[0] == 0x28);
  CHECK(std::equal(small.begin() + 2, small.begin() + 6, Raw{1, 2, 3, 4}.begin()));
  CHECK(small[7] == 5);
  CHECK(small[8] == 6);
  CHECK(read(0xffff'fff0, 16)[0] == 0x88);
  CHECK(read(0, 0x10000)[0] == 0x88);
  const Cdb large = write(0x0102030405060708, 0x090a0b0c, true);
  CHECK(large[0] == 0x8a);
  CHECK(large[1] == 0x08);
  CHECK(std::equal(large.begin() + 2, large.begin() + 14,
                   Raw{1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12}.begin()));
  CHECK(write(0, 1, false)[0] == 0x2a);
  CHECK(write(0, 1, false)[1] == 0);
}

TEST_CASE("UNMAP's list holds its ranges") {
  const BlockRange ranges[] = {{1, 2}, {0x1'0000'0000, 3}};
  const Raw expected = {0, 38, 0, 32, 0, 0, 0, 0,  //
                        0, 0,  0, 0,  0, 0, 0, 1, 0, 0, 0, 2, 0, 0, 0, 0,
                        0, 0,  0, 1,  0, 0, 0, 0, 0, 0, 0, 3, 0, 0, 0, 0};
  CHECK(unmap_list(ranges) == expected);
  CHECK(unmap(40)[8] == 40);
}

TEST_CASE("sense data are read in both formats") {
  Raw fixed(18);
  fixed[0] = 0x70, fixed[2] = 0x06, fixed[12] = 0x2a, fixed[13] = 0x09;
  auto sense = parse_sense(fixed);
  REQUIRE(sense);
  CHECK(sense->key == key::unit_attention);
  CHECK(sense->code == 0x2a09);
  CHECK(to_string(*sense) == "UNIT ATTENTION 2A/09 (capacity data has changed)");
  sense = parse_sense(Raw{0x72, 0x05, 0x20, 0x00});
  REQUIRE(sense);
  CHECK(sense->key == key::illegal_request);
  CHECK(sense->code == 0x2000);
  CHECK(to_string(Sense{3, 0x1234}) == "MEDIUM ERROR 12/34");
}

TEST_CASE("sense data that are cut off or of no format are none") {
  CHECK_FALSE(parse_sense(Raw{}));
  CHECK_FALSE(parse_sense(Raw{0x70}));
  CHECK_FALSE(parse_sense(Raw{0x72, 5, 0x20}));
  CHECK_FALSE(parse_sense(Raw{0x00, 0, 0, 0}));
  const auto cut = parse_sense(Raw{0x70, 0, 0x03});
  REQUIRE(cut);
  CHECK(cut->code == 0);
}

TEST_CASE("capacities tell blocks, provisioning, and when ten bytes are not enough") {
  Traits traits;
  REQUIRE(take_capacity_16(capacity_16(1023, 4096, 0xc0), traits));
  CHECK(traits.blocks == 1024);
  CHECK(traits.block_size == 4096);
  CHECK(traits.provisioned);
  CHECK(traits.unmapped_is_zero);
  CHECK(check_capacity(traits));
  CHECK_FALSE(take_capacity_16(capacity_16(~0ULL, 512), traits));
  CHECK_FALSE(take_capacity_16(Raw(11), traits));
  CHECK(take_capacity_10(Raw{0, 0, 0, 9, 0, 0, 2, 0}, traits));
  CHECK(traits.blocks == 10);
  CHECK_FALSE(take_capacity_10(Raw{0xff, 0xff, 0xff, 0xff, 0, 0, 2, 0}, traits));
}

TEST_CASE("block sizes and sizes that no leg can have are refused") {
  for (const std::uint32_t block : {0U, 1U, 256U, 520U, 4097U, 131072U}) {
    Traits traits;
    REQUIRE(take_capacity_16(capacity_16(1023, block), traits));
    CHECK_FALSE(check_capacity(traits));
  }
  Traits huge;
  REQUIRE(take_capacity_16(capacity_16(0xffff'ffff'ffff'fff0, 512), huge));
  CHECK_FALSE(check_capacity(huge));
}

TEST_CASE("only a disk that is there is taken") {
  CHECK(check_inquiry(Raw{0, 0, 6, 2, 31}));
  CHECK(check_inquiry(Raw{0x7f, 0, 6, 2, 31}).code() == Errc::not_found);
  CHECK(check_inquiry(Raw{0x0c, 0, 6, 2, 31}).error().message ==
        "the LUN is no disk: its peripheral device type is 0Ch");
  CHECK_FALSE(check_inquiry(Raw{0, 0}));
}

TEST_CASE("the pages of an INQUIRY are read as far as they go") {
  CHECK(lists_page(Raw{0, 0, 0, 3, 0x00, 0x83, 0xb0}, 0xb0));
  CHECK_FALSE(lists_page(Raw{0, 0, 0, 2, 0x00, 0x83, 0xb0}, 0xb0));
  CHECK_FALSE(lists_page(Raw{0, 0, 0xff, 0xff}, 0xb0));
  CHECK_FALSE(lists_page(Raw{0, 0}, 0xb0));

  Raw limits(64);
  limits[1] = 0xb0, limits[3] = 0x3c, limits[11] = 8, limits[23] = 16, limits[27] = 2;
  limits[43] = 32;
  Traits traits;
  take_block_limits(limits, traits);
  CHECK(traits.max_transfer == 8);
  CHECK(traits.max_unmap_blocks == 16);
  CHECK(traits.max_unmap_ranges == 2);
  CHECK(traits.max_write_same == 32);
  // The page's own length counts, not what lies behind it.
  limits[3] = 0x0c;
  take_block_limits(limits, traits);
  CHECK(traits.max_unmap_blocks == 0);
  take_block_limits(Raw{0, 0xb0}, traits);

  take_provisioning(Raw{0, 0xb2, 0, 4, 0, 0xe0, 0, 0}, traits);
  CHECK(traits.can_unmap);
  CHECK(traits.can_unmap_same_16);
  CHECK(traits.can_unmap_same_10);
}

TEST_CASE("MODE SENSE tells write protection, FUA and the cache") {
  Traits traits;
  take_mode_sense(Raw{7, 0, 0x90, 0, 0x08, 2, 0x04, 0}, traits);
  CHECK(traits.read_only);
  CHECK(traits.fua);
  CHECK(traits.write_cache);
  take_mode_sense(Raw{15, 0, 0, 8, 0, 0, 0, 0, 0, 0, 0, 0, 0x88, 2, 0x00, 0}, traits);
  CHECK_FALSE(traits.read_only);
  CHECK_FALSE(traits.write_cache);
  Traits untold;
  take_mode_sense(Raw{3, 0, 0x10, 0xff}, untold);
  CHECK(untold.write_cache);
}

TEST_CASE("a unit's identity is made of what names the unit, not the port") {
  Traits traits;
  take_identity(Raw{0, 0x83, 0, 20,                          //
                    1, 0x03, 0, 4,  0xde, 0xad, 0xbe, 0xef,  // NAA of the unit
                    1, 0x14, 0, 4,  0,    0,    0,    1,     // relative port
                    1, 0x02, 0, 9},                          // cut off
                traits);
  CHECK(traits.identity == "3\xde\xad\xbe\xef");
  take_identity(Raw{0, 0x80, 0, 4, 1, 2, 3, 4}, traits);
  CHECK(traits.identity.empty());
}

TEST_CASE("LBA status is taken as far as its runs follow each other") {
  const auto run = [](std::uint8_t lba, std::uint8_t blocks, std::uint8_t state) {
    return Raw{0, 0, 0, 0, 0, 0, 0, lba, 0, 0, 0, blocks, state, 0, 0, 0};
  };
  Raw answer{0, 0, 0, 52, 0, 0, 0, 0};
  for (const Raw& part : {run(0, 8, 0), run(8, 8, 1), run(20, 8, 0)})
    answer.insert(answer.end(), part.begin(), part.end());
  const auto runs = parse_lba_status(answer, 4);
  REQUIRE(runs.size() == 2);
  CHECK(runs[0].range.lba == 4);
  CHECK(runs[0].range.blocks == 4);
  CHECK(runs[0].state == 0);
  CHECK(runs[1].range.lba == 8);
  CHECK(runs[1].state == 1);
  CHECK(parse_lba_status(answer, 100).empty());
  CHECK(parse_lba_status(Raw{0, 0, 0, 52}, 0).empty());
  answer[19] = 0;  // a run of nothing
  CHECK(parse_lba_status(answer, 0).empty());
}
