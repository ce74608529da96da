#pragma once

#include <array>
#include <cstdint>
#include <span>

#include "proto/scsi/bytes.hpp"

namespace blockloom::scsi {

using Cdb = std::array<std::uint8_t, 16>;

/// What a command does, whatever its length.
enum class Command : std::uint8_t {
  test_unit_ready,
  request_sense,
  inquiry,
  mode_select,
  mode_sense,
  reserve,
  release,
  start_stop,
  prevent_allow,
  read_capacity_10,
  read_capacity_16,
  read,
  write,
  write_and_verify,
  verify,
  pre_fetch,
  synchronize_cache,
  read_defect_data,
  write_same,
  unmap,
  compare_and_write,
  or_write,
  get_lba_status,
  persistent_in,
  persistent_out,
  extended_copy,
  receive_copy_results,
  report_luns,
  report_target_port_groups,
  report_opcodes,
  report_task_functions,
  sanitize,
};

/// What a reservation of another nexus does to a command (SPC-4 5.13.1, SBC-3 4.17).
enum class Access : std::uint8_t {
  always,       ///< allowed under every reservation
  status,       ///< allowed under persistent ones; RESERVE(6) keeps it out
  read,         ///< Write Exclusive lets it through
  write,        ///< kept out by all
  registrants,  ///< kept out by all, but let through for registrants whatever the type
  own_rules,    ///< RESERVE, RELEASE, PERSISTENT RESERVE, PREVENT ALLOW, START STOP UNIT
};

/// One row of the table of supported commands.
struct CommandInfo {
  std::uint8_t opcode;
  std::int16_t service_action;  ///< -1: the opcode has none
  std::uint8_t length;          ///< of the CDB: 6, 10, 12, 16
  Command command;
  Access access;
  Cdb usage;  ///< the bits that are evaluated (SPC-4 6.35.3); byte 0 the opcode, the SA in place
};

/// All of them, by opcode and service action.
std::span<const CommandInfo> supported_commands() noexcept;

struct Lookup {
  const CommandInfo* info = nullptr;  ///< null: not supported
  bool known_opcode = false;          ///< with another service action it would be
};
Lookup find_command(const Cdb& cdb) noexcept;
/// The first row of an opcode; null: none.
const CommandInfo* find_opcode(std::uint8_t opcode) noexcept;

/// CDB length by opcode group (SPC-4 4.2.5.1); 0: reserved or vendor specific.
unsigned cdb_length(std::uint8_t opcode) noexcept;

/// LBA and number of blocks of a command that has both, in any of the four lengths.
/// READ(6) and WRITE(6) mean 256 blocks by 0.
struct Range {
  std::uint64_t lba = 0;
  std::uint64_t blocks = 0;
};
Range decode_range(const Cdb& cdb) noexcept;

/// The allocation or parameter list length, where this command has it.
std::uint32_t decode_length(const CommandInfo& info, const Cdb& cdb) noexcept;

}  // namespace blockloom::scsi
