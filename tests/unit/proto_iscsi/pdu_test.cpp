#include "proto/iscsi/pdu.hpp"

#include <array>
#include <cstdint>
#include <string_view>
#include <vector>

#include <doctest/doctest.h>

#include "proto/iscsi/digest.hpp"

using namespace blockloom::iscsi;

TEST_CASE("the fields of a SCSI command lie where RFC 7143 11.3 has them") {
  Bhs header;
  header.bytes = {0x41, 0xc1, 0,    0,    1, 0x01, 0x02, 0x03,  // F, R, simple; data length
                  0x40, 0x05, 0,    0,    0, 0,    0,    0,     // LUN
                  0xaa, 0xbb, 0xcc, 0xdd, 0, 0x10, 0,    0,     // ITT, expected length
                  1,    2,    3,    4,    5, 6,    7,    8,     // CmdSN, ExpStatSN
                  0x28, 0,    0,    0,    0, 9,    0,    0,    8, 0, 0, 0, 0, 0, 0, 0};
  CHECK(header.opcode() == Opcode::scsi_command);
  CHECK(header.immediate());
  CHECK(header.final());
  CHECK(header.ahs_length() == 4);
  CHECK(header.data_length() == 0x010203);
  CHECK(header.lun() == 0x4005000000000000);
  CHECK(header.itt() == 0xaabbccdd);
  CHECK(header.expected_length() == 0x100000);
  CHECK(header.cmd_sn() == 0x01020304);
  CHECK(header.exp_stat_sn() == 0x05060708);
  CHECK(header.cdb()[0] == 0x28);
  CHECK(header.cdb()[8] == 8);
}

TEST_CASE("a data length is written beside the AHS length, not over it") {
  Bhs header;
  header.set8(4, 7);
  header.set_data_length(0x123456);
  CHECK(header.u8(4) == 7);
  CHECK(header.data_length() == 0x123456);
}

TEST_CASE("an R2T says which data it wants") {
  const Bhs header = make_r2t(3, 10, 20, {1, 2, 3}, 4, 5, 6);
  CHECK(header.bytes[0] == 0x31);
  CHECK(header.bytes[1] == 0x80);
  CHECK(header.lun() == 3);
  CHECK(header.itt() == 10);
  CHECK(header.ttt() == 20);
  CHECK(header.u32(24) == 1);
  CHECK(header.u32(28) == 2);
  CHECK(header.u32(32) == 3);
  CHECK(header.u32(36) == 4);
  CHECK(header.u32(40) == 5);
  CHECK(header.u32(44) == 6);
}

TEST_CASE("a reject carries the header that it rejects") {
  const Bhs header = make_reject(RejectReason::snack, {9, 8, 7});
  CHECK(header.bytes[0] == 0x3f);
  CHECK(header.bytes[2] == 3);
  CHECK(header.itt() == no_tag);
  CHECK(header.data_length() == bhs_size);
}

TEST_CASE("serial numbers compare around their end") {
  CHECK(serial_less(1, 2));
  CHECK_FALSE(serial_less(2, 2));
  CHECK(serial_less(0xffffffff, 0));
  CHECK_FALSE(serial_less(0, 0xffffffff));
  CHECK(serial_less(0xfffffff0, 0x10));
}

TEST_CASE("additional header segments: an extended CDB and a second length") {
  const std::array<std::uint8_t, 16> bytes{0, 4, 1, 0, 0xa, 0xb, 0xc, 0,   // 3 bytes of CDB
                                           0, 5, 2, 0, 0,   1,   0,   0};  // 65536
  const auto ahs = parse_ahs(bytes);
  REQUIRE(ahs.has_value());
  CHECK(ahs->extended_cdb.size() == 3);
  CHECK(ahs->extended_cdb[2] == 0xc);
  CHECK(ahs->bidi_read_length == 65536);
  CHECK(parse_ahs({}).has_value());
}

TEST_CASE("malformed additional header segments are refused") {
  const std::vector<std::vector<std::uint8_t>> wrong{
      {0, 4, 1},                                        // cut short
      {0, 9, 1, 0, 1, 2, 3, 4},                         // longer than what there is
      {0, 0, 1, 0},                                     // of no length
      {0, 5, 3, 0, 1, 2, 3, 4},                         // an unknown type
      {0, 4, 2, 0, 1, 2, 3, 0},                         // a length of three bytes
      {0, 5, 2, 0, 1, 2, 3, 4, 0, 5, 2, 0, 1, 2, 3, 4}  // given twice
  };
  for (const auto& bytes : wrong)
    CHECK_FALSE(parse_ahs(bytes).has_value());
}

TEST_CASE("CRC32C: the values of RFC 7143 appendix A.4") {
  std::array<std::uint8_t, 32> bytes{};
  CHECK(crc32c(bytes.data(), 32) == 0x8a9136aa);
  bytes.fill(0xff);
  CHECK(crc32c(bytes.data(), 32) == 0x62a8ab43);
  for (std::size_t i = 0; i < 32; ++i)
    bytes[i] = static_cast<std::uint8_t>(i);
  CHECK(crc32c(bytes.data(), 32) == 0x46dd794e);
}

TEST_CASE("CRC32C over pieces is that of the whole, and padding counts") {
  constexpr std::string_view text = "some data of 23 bytes..";
  Crc32c pieces;
  pieces.add(text.data(), 5);
  pieces.add(text.data() + 5, text.size() - 5);
  pieces.add_padding(text.size());
  std::array<char, 24> padded_text{};
  std::copy(text.begin(), text.end(), padded_text.begin());
  CHECK(pieces.value() == crc32c(padded_text.data(), 24));
}
