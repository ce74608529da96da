#include "proto/scsi/command.hpp"

namespace blockloom::scsi {
namespace {

using enum Command;

// The usage of CDBs with an LBA and a number of blocks: `flags` is byte 1.
constexpr Cdb range_10(std::uint8_t opcode, std::uint8_t flags) {
  return {opcode, flags, 0xff, 0xff, 0xff, 0xff, 0, 0xff, 0xff};
}
constexpr Cdb range_12(std::uint8_t opcode, std::uint8_t flags) {
  return {opcode, flags, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff};
}
constexpr Cdb range_16(std::uint8_t opcode, std::uint8_t flags) {
  Cdb usage{opcode, flags};
  for (std::size_t i = 2; i < 14; ++i)
    usage[i] = 0xff;
  return usage;
}
// As range_16, with one byte of blocks: COMPARE AND WRITE.
constexpr Cdb short_range_16(std::uint8_t opcode, std::uint8_t flags) {
  Cdb usage = range_16(opcode, flags);
  usage[10] = usage[11] = usage[12] = 0;
  usage[13] = 0xff;
  return usage;
}
constexpr Cdb parameters_16(std::uint8_t opcode, std::uint8_t list_id) {
  return {opcode, 0x1f, list_id, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff, 0xff, 0xff};
}
constexpr Cdb parameters_10(std::uint8_t opcode, std::uint8_t scope_and_type) {
  return {opcode, 0x1f, scope_and_type, 0, 0, 0xff, 0xff, 0xff, 0xff};
}
constexpr Cdb maintenance_in(std::uint8_t action, std::uint8_t options, std::uint8_t selector) {
  return {0xa3, action, options, selector, selector, selector, 0xff, 0xff, 0xff, 0xff};
}

// SPC-4 6, SBC-3 5. Sorted by opcode, then by service action.
constexpr CommandInfo table[] = {
    {0x00, -1, 6, test_unit_ready, Access::status, {0x00}},
    {0x03, -1, 6, request_sense, Access::always, {0x03, 0x01, 0, 0, 0xff}},
    {0x08, -1, 6, read, Access::read, {0x08, 0x1f, 0xff, 0xff, 0xff}},
    {0x0a, -1, 6, write, Access::write, {0x0a, 0x1f, 0xff, 0xff, 0xff}},
    {0x12, -1, 6, inquiry, Access::always, {0x12, 0x01, 0xff, 0xff, 0xff}},
    {0x15, -1, 6, mode_select, Access::registrants, {0x15, 0x11, 0, 0, 0xff}},
    {0x16, -1, 6, reserve, Access::own_rules, {0x16}},
    {0x17, -1, 6, release, Access::own_rules, {0x17}},
    {0x1a, -1, 6, mode_sense, Access::registrants, {0x1a, 0x08, 0xff, 0xff, 0xff}},
    {0x1b, -1, 6, start_stop, Access::own_rules, {0x1b, 0x01, 0, 0x0f, 0xf7}},
    {0x1e, -1, 6, prevent_allow, Access::own_rules, {0x1e, 0, 0, 0, 0x03}},
    {0x25, -1, 10, read_capacity_10, Access::status, {0x25}},
    {0x28, -1, 10, read, Access::read, range_10(0x28, 0x18)},
    {0x2a, -1, 10, write, Access::write, range_10(0x2a, 0x18)},
    {0x2e, -1, 10, write_and_verify, Access::write, range_10(0x2e, 0x16)},
    {0x2f, -1, 10, verify, Access::read, range_10(0x2f, 0x16)},
    {0x34, -1, 10, pre_fetch, Access::read, range_10(0x34, 0x02)},
    {0x35, -1, 10, synchronize_cache, Access::write, range_10(0x35, 0x02)},
    {0x37, -1, 10, read_defect_data, Access::status, {0x37, 0, 0x1f, 0, 0, 0, 0, 0xff, 0xff}},
    {0x41, -1, 10, write_same, Access::write, range_10(0x41, 0x18)},
    {0x42, -1, 10, unmap, Access::write, {0x42, 0x01, 0, 0, 0, 0, 0, 0xff, 0xff}},
    {0x48, 0x01, 10, sanitize, Access::write, {0x48, 0xbf, 0, 0, 0, 0, 0, 0xff, 0xff}},
    {0x48, 0x02, 10, sanitize, Access::write, {0x48, 0xbf, 0, 0, 0, 0, 0, 0xff, 0xff}},
    {0x48, 0x1f, 10, sanitize, Access::write, {0x48, 0x1f, 0, 0, 0, 0, 0, 0xff, 0xff}},
    {0x55, -1, 10, mode_select, Access::registrants, {0x55, 0x11, 0, 0, 0, 0, 0, 0xff, 0xff}},
    {0x56, -1, 10, reserve, Access::own_rules, {0x56}},
    {0x57, -1, 10, release, Access::own_rules, {0x57}},
    {0x5a, -1, 10, mode_sense, Access::registrants, {0x5a, 0x18, 0xff, 0xff, 0, 0, 0, 0xff, 0xff}},
    {0x5e, 0, 10, persistent_in, Access::own_rules, {0x5e, 0x1f, 0, 0, 0, 0, 0, 0xff, 0xff}},
    {0x5e, 1, 10, persistent_in, Access::own_rules, {0x5e, 0x1f, 0, 0, 0, 0, 0, 0xff, 0xff}},
    {0x5e, 2, 10, persistent_in, Access::own_rules, {0x5e, 0x1f, 0, 0, 0, 0, 0, 0xff, 0xff}},
    {0x5e, 3, 10, persistent_in, Access::own_rules, {0x5e, 0x1f, 0, 0, 0, 0, 0, 0xff, 0xff}},
    {0x5f, 0, 10, persistent_out, Access::own_rules, parameters_10(0x5f, 0x00)},
    {0x5f, 1, 10, persistent_out, Access::own_rules, parameters_10(0x5f, 0xff)},
    {0x5f, 2, 10, persistent_out, Access::own_rules, parameters_10(0x5f, 0xff)},
    {0x5f, 3, 10, persistent_out, Access::own_rules, parameters_10(0x5f, 0x00)},
    {0x5f, 4, 10, persistent_out, Access::own_rules, parameters_10(0x5f, 0xff)},
    {0x5f, 5, 10, persistent_out, Access::own_rules, parameters_10(0x5f, 0xff)},
    {0x5f, 6, 10, persistent_out, Access::own_rules, parameters_10(0x5f, 0x00)},
    {0x5f, 7, 10, persistent_out, Access::own_rules, parameters_10(0x5f, 0x00)},
    {0x83, 0x00, 16, extended_copy, Access::write, parameters_16(0x83, 0)},
    {0x84, 0x00, 16, receive_copy_results, Access::registrants, parameters_16(0x84, 0xff)},
    {0x84, 0x03, 16, receive_copy_results, Access::registrants, parameters_16(0x84, 0)},
    {0x84, 0x04, 16, receive_copy_results, Access::registrants, parameters_16(0x84, 0xff)},
    {0x88, -1, 16, read, Access::read, range_16(0x88, 0x18)},
    {0x89, -1, 16, compare_and_write, Access::write, short_range_16(0x89, 0x18)},
    {0x8a, -1, 16, write, Access::write, range_16(0x8a, 0x18)},
    {0x8b, -1, 16, or_write, Access::write, range_16(0x8b, 0x18)},
    {0x8e, -1, 16, write_and_verify, Access::write, range_16(0x8e, 0x16)},
    {0x8f, -1, 16, verify, Access::read, range_16(0x8f, 0x16)},
    {0x90, -1, 16, pre_fetch, Access::read, range_16(0x90, 0x02)},
    {0x91, -1, 16, synchronize_cache, Access::write, range_16(0x91, 0x02)},
    {0x93, -1, 16, write_same, Access::write, range_16(0x93, 0x19)},
    {0x9e, 0x10, 16, read_capacity_16, Access::status, parameters_16(0x9e, 0)},
    {0x9e, 0x12, 16, get_lba_status, Access::read, range_16(0x9e, 0x1f)},
    {0xa0, -1, 12, report_luns, Access::always, {0xa0, 0, 0xff, 0, 0, 0, 0xff, 0xff, 0xff, 0xff}},
    {0xa3, 0x0a, 12, report_target_port_groups, Access::status, maintenance_in(0xff, 0, 0)},
    {0xa3, 0x0c, 12, report_opcodes, Access::status, maintenance_in(0x1f, 0x87, 0xff)},
    {0xa3, 0x0d, 12, report_task_functions, Access::status, maintenance_in(0x1f, 0x80, 0)},
    {0xa8, -1, 12, read, Access::read, range_12(0xa8, 0x18)},
    {0xaa, -1, 12, write, Access::write, range_12(0xaa, 0x18)},
    {0xae, -1, 12, write_and_verify, Access::write, range_12(0xae, 0x16)},
    {0xaf, -1, 12, verify, Access::read, range_12(0xaf, 0x16)},
    {0xb7, -1, 12, read_defect_data, Access::status, range_12(0xb7, 0x1f)},
};

/// The first row of each opcode, plus one; 0: none.
constexpr std::array<std::uint8_t, 256> first_rows = [] {
  std::array<std::uint8_t, 256> rows{};
  for (std::size_t i = std::size(table); i-- > 0;)
    rows[table[i].opcode] = static_cast<std::uint8_t>(i + 1);
  return rows;
}();

}  // namespace

std::span<const CommandInfo> supported_commands() noexcept {
  return table;
}

const CommandInfo* find_opcode(std::uint8_t opcode) noexcept {
  const unsigned row = first_rows[opcode];
  return row == 0 ? nullptr : &table[row - 1];
}

Lookup find_command(const Cdb& cdb) noexcept {
  const CommandInfo* info = find_opcode(cdb[0]);
  if (info == nullptr) return {};
  if (info->service_action < 0) return {info, true};
  const CommandInfo* const end = table + std::size(table);
  for (; info != end && info->opcode == cdb[0]; ++info)
    if (info->service_action == (cdb[1] & 0x1f)) return {info, true};
  return {nullptr, true};
}

unsigned cdb_length(std::uint8_t opcode) noexcept {
  constexpr unsigned lengths[8] = {6, 10, 10, 0, 16, 12, 0, 0};
  return lengths[opcode >> 5];
}

Range decode_range(const Cdb& cdb) noexcept {
  switch (cdb_length(cdb[0])) {
    case 6: {
      const std::uint64_t blocks = cdb[4] == 0 ? 256 : cdb[4];
      return {load<3>(&cdb[1]) & 0x1fffff, blocks};
    }
    case 10:
      return {load<4>(&cdb[2]), load<2>(&cdb[7])};
    case 12:
      return {load<4>(&cdb[2]), load<4>(&cdb[6])};
    default:
      break;
  }
  if (cdb[0] == 0x89) return {load<8>(&cdb[2]), cdb[13]};
  return {load<8>(&cdb[2]), load<4>(&cdb[10])};
}

std::uint32_t decode_length(const CommandInfo& info, const Cdb& cdb) noexcept {
  switch (info.command) {
    case inquiry:
      return load16(&cdb[3]);
    case persistent_out:
      return load32(&cdb[5]);
    default:
      break;
  }
  switch (info.length) {
    case 6:
      return cdb[4];
    case 10:
      return load16(&cdb[7]);
    case 12:
      return load32(&cdb[6]);
    default:
      return load32(&cdb[10]);
  }
}

}  // namespace blockloom::scsi
