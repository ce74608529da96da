#include <doctest/doctest.h>

#include "proto/scsi/command.hpp"
#include "proto/scsi/identity.hpp"
#include "proto/scsi/report.hpp"
#include "proto/scsi/reservation.hpp"
#include "proto/scsi/sense.hpp"

using namespace blockloom::scsi;

namespace {

Output sense_of(const Sense& sense, bool descriptor) {
  Output bytes(longest_sense);
  bytes.resize(encode_sense(sense, descriptor, std::span(bytes).first<longest_sense>()));
  return bytes;
}

}  // namespace

TEST_CASE("sense data in fixed format, with and without what belongs to the key") {
  CHECK(sense_of({SenseKey::illegal_request, Asc::invalid_field_in_cdb, {}, 7}, false) ==
        Output{0x70, 0, 5, 0, 0, 0, 0, 10, 0, 0, 0, 0, 0x24, 0, 0, 0xc0, 0, 7});
  CHECK(sense_of({SenseKey::medium_error, Asc::unrecovered_read_error, 0x1234}, false) ==
        Output{0xf0, 0, 3, 0, 0, 0x12, 0x34, 10, 0, 0, 0, 0, 0x11, 0, 0, 0, 0, 0});
  // 32 bits do not hold it, so it is not valid.
  CHECK(sense_of({SenseKey::medium_error, Asc::write_error, 1ull << 32}, false)[0] == 0x70);
}

TEST_CASE("sense data in descriptor format") {
  CHECK(sense_of({SenseKey::unit_attention, Asc::power_on}, true) ==
        Output{0x72, 6, 0x29, 0, 0, 0, 0, 0});
  CHECK(sense_of({SenseKey::medium_error, Asc::write_error, 1ull << 32}, true) ==
        Output{0x72, 3, 0x0c, 0, 0, 0, 0, 12, 0, 10, 0x80, 0, 0, 0, 0, 1, 0, 0, 0, 0});
  const Sense both{SenseKey::illegal_request, Asc::invalid_field_in_parameters, 1, 300, false};
  CHECK(sense_of(both, true) == Output{0x72, 5, 0x26, 0, 0, 0, 0, 20, 0, 10, 0x80, 0, 0,  0,
                                       0,    0, 0,    0, 0, 1, 2, 6,  0, 0,  0x80, 1, 44, 0});
}

TEST_CASE("the table of commands is sorted, and every row is found by its CDB") {
  const CommandInfo* before = nullptr;
  for (const CommandInfo& info : supported_commands()) {
    if (before != nullptr)
      CHECK(std::pair(before->opcode, before->service_action) <
            std::pair(info.opcode, info.service_action));
    before = &info;
    CHECK(info.length == cdb_length(info.opcode));
    CHECK(info.usage[0] == info.opcode);
    for (std::size_t i = info.length - 1u; i < info.usage.size(); ++i)
      CHECK(info.usage[i] == 0);  // the control byte, and what is beyond
    Cdb cdb{info.opcode};
    if (info.service_action >= 0) cdb[1] = static_cast<std::uint8_t>(info.service_action);
    CHECK(find_command(cdb).info == &info);
  }
  CHECK(find_command({0xff}).info == nullptr);
  CHECK_FALSE(find_command({0xff}).known_opcode);
  CHECK(find_command({0x9e, 0x1f}).info == nullptr);
  CHECK(find_command({0x9e, 0x1f}).known_opcode);
}

TEST_CASE("LBA and blocks are where each length of CDB has them") {
  const auto range = [](const Cdb& cdb) {
    const Range r = decode_range(cdb);
    return std::pair(r.lba, r.blocks);
  };
  using P = std::pair<std::uint64_t, std::uint64_t>;
  CHECK(range({0x08, 0xff, 2, 3, 4}) == P{0x1f0203, 4});
  CHECK(range({0x08, 0, 0, 0, 0}) == P{0, 256});
  CHECK(range({0x28, 0, 1, 2, 3, 4, 0, 5, 6}) == P{0x01020304, 0x0506});
  CHECK(range({0xa8, 0, 1, 2, 3, 4, 5, 6, 7, 8}) == P{0x01020304, 0x05060708});
  CHECK(range({0x88, 0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12}) ==
        P{0x0102030405060708, 0x090a0b0c});
  CHECK(range({0x89, 0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12}) == P{0x0102030405060708, 12});
}

TEST_CASE("an identity depends on its text and on nothing else") {
  const Identity a = identity_of("vol0");
  CHECK(a == identity_of("vol0"));
  CHECK(a.naa != identity_of("vol1").naa);
  CHECK(naa_text(a).size() == 4 + 16);
  CHECK(naa_text(a).starts_with("naa.3"));
  // It must never change: initiators know disks by it.
  CHECK(naa_text(a) == "naa.3b455d4497eca250");
  CHECK(identity_of("").serial == "unnamed");
  CHECK(identity_of("a\n\xff").serial == "a__");
  CHECK(identity_of(std::string(300, 'x')).serial.size() == 128);
  CHECK(identity_of("6F1C7A34-9bb3-4b52-8d7e-3a9b1f0e2c11").uuid.has_value());
  CHECK_FALSE(identity_of("6f1c7a34-9bb3-4b52-8d7e-3a9b1f0e2c1g").uuid.has_value());
  CHECK_FALSE(identity_of("6f1c7a34x9bb3-4b52-8d7e-3a9b1f0e2c11").uuid.has_value());
}

TEST_CASE("LUNs are written in their shortest form, and only those forms are read") {
  CHECK(encode_lun(5) == 0x0005000000000000);
  CHECK(encode_lun(255) == 0x00ff000000000000);
  CHECK(encode_lun(256) == 0x4100000000000000);
  CHECK(encode_lun(16383) == 0x7fff000000000000);
  for (const std::uint16_t lun : {0, 1, 255, 256, 300, 16383})
    CHECK(decode_lun(encode_lun(lun)) == lun);
  CHECK(decode_lun(0x4005000000000000) == 5);
  CHECK_FALSE(decode_lun(0x0105000000000000).has_value());  // another bus
  CHECK_FALSE(decode_lun(0x0005000000000001).has_value());  // a second level
  CHECK_FALSE(decode_lun(0xc101000000000000).has_value());  // well known
}

TEST_CASE("TransportIDs read back, and malformed ones are refused") {
  for (const TransportId& id :
       {TransportId{"iqn.a:b", std::array<std::uint8_t, 6>{1, 2, 3, 4, 5, 0xff}},
        TransportId{"iqn.a:b", {}}, TransportId{std::string(223, 'n'), {}}}) {
    Output bytes;
    append_transport_id(bytes, id);
    CHECK(bytes.size() % 4 == 0);
    CHECK(bytes.size() >= 24);
    const auto parsed = parse_transport_id(bytes);
    REQUIRE(parsed.has_value());
    CHECK(parsed->id == id);
    CHECK(parsed->size == bytes.size());
    bytes.push_back(7);
    CHECK(parse_transport_id(bytes)->size == bytes.size() - 1);
    CHECK_FALSE(parse_transport_id(Input(bytes).first(23)).has_value());
  }
  Output good;
  append_transport_id(good, {"iqn.a:b", std::array<std::uint8_t, 6>{}});
  const auto refused = [&](std::size_t at, std::uint8_t value) {
    Output bad = good;
    bad[at] = value;
    return !parse_transport_id(bad).has_value();
  };
  CHECK(refused(0, 0x46));  // another protocol
  CHECK(refused(0, 0x85));  // another format
  CHECK(refused(3, 0xff));  // a length beyond the end
  CHECK(refused(3, 21));    // no multiple of four
  CHECK(refused(4, ' '));   // a blank in the name
  CHECK(refused(4, 0));     // no name
  CHECK(refused(11, 'x'));  // no ",i,0x"
  CHECK(refused(16, 'g'));  // no hexadecimal digit
}
