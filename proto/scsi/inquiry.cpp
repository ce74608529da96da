#include "proto/scsi/inquiry.hpp"

#include <string>

namespace blockloom::scsi {
namespace {

// Designators (SPC-4 7.8.6).
enum : std::uint8_t { binary = 1, ascii = 2, utf8 = 3 };
enum : std::uint8_t { of_unit = 0x00, of_port = 0x10, of_target = 0x20 };
constexpr std::uint8_t iscsi_protocol = 5;
constexpr std::uint8_t protocol_valid = 0x80;

template <class Bytes>
void append_designator(Output& out, std::uint8_t code_set, std::uint8_t association,
                       std::uint8_t type, const Bytes& bytes) {
  std::uint8_t flags = association | type;
  if (association != of_unit) {
    code_set |= iscsi_protocol << 4;
    flags |= protocol_valid;
  }
  append<1>(out, code_set);
  append<1>(out, flags);
  append<1>(out, 0);
  append<1>(out, bytes.size());
  out.insert(out.end(), bytes.begin(), bytes.end());
}

/// UTF-8, ended by a zero and padded with zeroes to a multiple of four.
std::string name_string(std::string_view text) {
  std::string name(text.substr(0, 247));
  name.append(4 - name.size() % 4, '\0');
  return name;
}

std::string port_name(const UnitDescription& unit) {
  constexpr char digits[] = "0123456789abcdef";
  std::string name(unit.target_name.substr(0, 223));
  name += ",t,0x";
  for (int shift = 12; shift >= 0; shift -= 4)
    name += digits[unit.portal_group >> shift & 15];
  return name;
}

void page_supported(Output& out, const UnitDescription& unit) {
  for (const std::uint8_t page : {0x00, 0x80, 0x83, 0x86, 0xb0, 0xb1})
    append<1>(out, page);
  if (unit.thin) append<1>(out, 0xb2);
}

void page_identification(Output& out, const UnitDescription& unit) {
  const Identity& id = unit.identity;
  append_designator(out, binary, of_unit, 3, id.naa);
  append_designator(out, ascii, of_unit, 1, std::string(vendor) + id.serial);
  append_designator(out, utf8, of_unit, 8, name_string(naa_text(id)));
  if (id.uuid) {
    std::string uuid{0x10, 0};
    uuid.append(id.uuid->begin(), id.uuid->end());
    append_designator(out, binary, of_unit, 10, uuid);
  }
  Output number;
  append<4>(number, unit.portal_group);
  append_designator(out, binary, of_port, 4, number);
  append_designator(out, binary, of_port, 5, number);
  append_designator(out, utf8, of_port, 8, name_string(port_name(unit)));
  append_designator(out, utf8, of_target, 8, name_string(unit.target_name));
}

void page_extended(Output& out) {
  out.resize(64);
  out[5] = 0x07;  // HEADSUP, ORDSUP, SIMPSUP
  out[6] = 0x01;  // V_SUP: there may be a volatile cache
  out[7] = 0x01;  // LUICLR
}

void page_limits(Output& out, const UnitDescription& unit) {
  const std::uint32_t size = unit.block_size;
  out.resize(64);
  out[5] = compare_and_write_blocks;
  store<2>(&out[6], physical_block / size);
  store<4>(&out[8], longest_transfer / size);
  store<4>(&out[12], optimal_transfer / size);
  if (unit.thin) {
    store<4>(&out[20], UINT32_MAX);
    store<4>(&out[24], unmap_descriptors);
    store<4>(&out[28], physical_block / size);
    store<4>(&out[32], 0x80000000);  // UGAVALID, alignment 0
  }
}

void page_characteristics(Output& out, const UnitDescription& unit) {
  out.resize(64);
  store<2>(&out[4], 1);                           // does not rotate
  if (unit.sanitize && unit.thin) out[7] = 0x40;  // WABEREQ: after BLOCK ERASE reads succeed
}

void page_provisioning(Output& out) {
  out.resize(8);
  out[5] = 0xe4;  // LBPU, LBPWS, LBPWS10, LBPRZ
  out[6] = 0x02;  // thin
}

}  // namespace

Output standard_inquiry(bool connected, bool removable) {
  Output out(8);
  out[0] = connected ? 0x00 : 0x7f;
  out[1] = removable ? 0x80 : 0;
  out[2] = 0x06;  // SPC-4
  out[3] = 0x12;  // HISUP, format 2
  out[4] = 96 - 5;
  out[5] = 0x18;  // implicit ALUA, third-party copy
  out[6] = 0x10;  // MULTIP
  out[7] = 0x02;  // CMDQUE
  append_text(out, vendor);
  append_text(out, product);
  append_text(out, "0001");
  out.resize(58);
  for (const std::uint16_t version : {0x00a0, 0x0960, 0x0460, 0x04c0})  // SAM-5 iSCSI SPC-4 SBC-3
    append<2>(out, version);
  out.resize(96);
  return out;
}

std::optional<Output> vpd_page(const UnitDescription& unit, std::uint8_t page) {
  Output out{0x00, page, 0, 0};
  switch (page) {
    case 0x00:
      page_supported(out, unit);
      break;
    case 0x80:
      append_text(out, unit.identity.serial);
      break;
    case 0x83:
      page_identification(out, unit);
      break;
    case 0x86:
      page_extended(out);
      break;
    case 0xb0:
      page_limits(out, unit);
      break;
    case 0xb1:
      page_characteristics(out, unit);
      break;
    case 0xb2:
      if (!unit.thin) return {};
      page_provisioning(out);
      break;
    default:
      return {};
  }
  store<2>(&out[2], out.size() - 4);
  return out;
}

}  // namespace blockloom::scsi
