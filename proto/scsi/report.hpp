#pragma once

#include <cstdint>
#include <optional>
#include <span>

#include "proto/scsi/bytes.hpp"
#include "proto/scsi/command.hpp"
#include "proto/scsi/inquiry.hpp"
#include "proto/scsi/sense.hpp"

namespace blockloom::scsi {

/// READ CAPACITY(10): a unit of more than 2^32 blocks says FFFFFFFFh (SBC-3 5.15).
Output read_capacity_10(std::uint64_t blocks, std::uint32_t block_size);
/// READ CAPACITY(16), 32 bytes (SBC-3 5.16).
Output read_capacity_16(const UnitDescription& unit, std::uint64_t blocks);

/// A LUN in its eight bytes, as a big-endian number (SAM-5 4.7): peripheral addressing up to 255,
/// flat space addressing up to 16,383.
std::uint64_t encode_lun(std::uint16_t lun) noexcept;
/// Nothing for any other addressing, a bus other than 0, or a second level.
std::optional<std::uint16_t> decode_lun(std::uint64_t lun) noexcept;

/// The data of REPORT LUNS (SPC-4 6.33). LUN 0 is there when `luns` is empty.
Output report_luns(std::span<const std::uint16_t> luns);

/// The data of REPORT SUPPORTED OPERATION CODES for a whole CDB (SPC-4 6.35): all commands, or
/// one. A sense when the CDB's own fields are wrong. `keep_out` hides a command that the unit
/// does not have now.
struct OpcodesAnswer {
  Output data;
  std::optional<Sense> sense;
};
OpcodesAnswer report_opcodes(const Cdb& cdb, bool (*keep_out)(const CommandInfo&, const void*),
                             const void* context);

/// REPORT SUPPORTED TASK MANAGEMENT FUNCTIONS: 4 bytes, or 16 with REPD (SPC-4 6.36).
Output report_task_functions(bool with_timeouts);

/// REPORT TARGET PORT GROUPS: one group, one port, active/optimized (SPC-4 6.37).
Output report_port_groups(std::uint16_t portal_group, bool extended_header);

/// One LBA status descriptor (SBC-3 5.4.3).
struct LbaStatus {
  std::uint64_t lba = 0;
  std::uint32_t blocks = 0;
  bool mapped = true;
};
Output lba_statuses(std::span<const LbaStatus> statuses);

/// One range of an UNMAP parameter list.
struct UnmapRange {
  std::uint64_t lba = 0;
  std::uint32_t blocks = 0;
};
/// A parameter list of UNMAP, without a copy (SBC-3 5.28): whole descriptors count, a partial one
/// at its end does not. Fewer than 8 bytes, and not 0, are an error that the caller tells.
std::size_t unmap_count(Input list) noexcept;
UnmapRange unmap_range(Input list, std::size_t index) noexcept;

}  // namespace blockloom::scsi
