#include <algorithm>
#include <cstring>

#include "proto/scsi/report.hpp"
#include "server/iscsi/unit_state.hpp"

// UNMAP and WRITE SAME. What is unmapped reads as zeroes (LBPRZ), so that both copies of a mirror
// agree, and so that an initiator may zero by unmapping. WRITE SAME with UNMAP unmaps whatever
// block it brings. To SBC-3 one that is not zero would be a write; to LIO, and to libiscsi's suite
// (WriteSame10.UnmapUntilEnd), it is a discard, and initiators send zeroes.

namespace blockloom {

using scsi::Asc;
using scsi::SenseKey;

namespace {

// A piece of a long range, so that tasks on the same thread have their turn between.
constexpr std::uint64_t zero_piece = std::uint64_t{256} << 20;

TaskNext unmap_next(UnitState& unit, ScsiTask& task);

TaskNext unmap_piece_ended(UnitState& unit, ScsiTask& task) {
  if (task.request.status != Errc::ok) return end_error(unit, task, task.request.status, false);
  const std::uint64_t done = task.request.length.value / unit.options.block_size;
  task.lba += done;
  task.blocks -= done;
  return unmap_next(unit, task);
}

/// task.lba, task.blocks: what is left of the range; task.position: the next descriptor.
TaskNext unmap_next(UnitState& unit, ScsiTask& task) {
  const scsi::Input list = data_of(task);
  while (task.blocks == 0) {
    if (task.position == scsi::unmap_count(list)) return end_good(task);
    const scsi::UnmapRange range = scsi::unmap_range(list, task.position++);
    task.lba = range.lba;
    task.blocks = range.blocks;
  }
  const std::uint64_t blocks = std::min(task.blocks, zero_piece / unit.options.block_size);
  const std::uint8_t fua = unit.mode().write_cache ? 0 : io_flag::fua;
  return submit_io(unit, task, Op::zero, task.lba, blocks, nullptr, io_flag::may_trim | fua,
                   unmap_piece_ended);
}

TaskNext unmap_with_data(UnitState& unit, ScsiTask& task) {
  const scsi::Input list = data_of(task);
  if (task.presented == 0) return end_good(task);
  if (list.size() < 8)
    return end_check(unit, task, SenseKey::illegal_request, Asc::parameter_list_length);
  if (scsi::unmap_count(list) > scsi::unmap_descriptors)
    return end_check(unit, task, SenseKey::illegal_request, Asc::invalid_field_in_parameters);
  const std::uint64_t count = unit.block_count();
  // All or nothing, as far as the list goes.
  for (std::size_t i = 0; i < scsi::unmap_count(list); ++i) {
    const scsi::UnmapRange range = scsi::unmap_range(list, i);
    if (range.lba > count || range.blocks > count - range.lba)
      return end_check(unit, task, SenseKey::illegal_request, Asc::lba_out_of_range);
  }
  task.lba = task.blocks = task.position = 0;
  return unmap_next(unit, task);
}

// --- WRITE SAME -------------------------------------------------------------------------------

TaskNext zero_next(UnitState& unit, ScsiTask& task);

TaskNext zero_piece_ended(UnitState& unit, ScsiTask& task) {
  if (task.request.status != Errc::ok) return end_error(unit, task, task.request.status, false);
  task.position += task.request.length.value / unit.options.block_size;
  return zero_next(unit, task);
}

TaskNext zero_next(UnitState& unit, ScsiTask& task) {
  if (task.position >= task.blocks) return end_good(task);
  const std::uint64_t blocks =
      std::min(task.blocks - task.position, zero_piece / unit.options.block_size);
  const std::uint8_t flags = unit.mode().write_cache ? 0 : io_flag::fua;
  return submit_io(unit, task, Op::zero, task.lba + task.position, blocks, nullptr,
                   static_cast<std::uint8_t>(flags | task.flags), zero_piece_ended);
}

TaskNext pattern_next(UnitState& unit, ScsiTask& task);

TaskNext pattern_written(UnitState& unit, ScsiTask& task) {
  if (task.request.status != Errc::ok) return end_error(unit, task, task.request.status, false);
  task.position += task.request.length.value / unit.options.block_size;
  if (task.position * unit.options.block_size % turn_bytes != 0) return pattern_next(unit, task);
  task.next = pattern_next;
  return TaskNext::yield;
}

TaskNext pattern_next(UnitState& unit, ScsiTask& task) {
  if (task.position >= task.blocks) return end_good(task);
  const std::uint64_t blocks =
      std::min(task.blocks - task.position, chunk_bytes / unit.options.block_size);
  return submit_io(unit, task, Op::write, task.lba + task.position, blocks, task.scratch.data(),
                   unit.mode().write_cache ? 0 : io_flag::fua, pattern_written);
}

bool all_zero(const std::byte* data, std::size_t size) noexcept {
  return data[0] == std::byte{0} && std::memcmp(data, data + 1, size - 1) == 0;
}

TaskNext same_with_data(UnitState& unit, ScsiTask& task) {
  const std::size_t size = unit.options.block_size;
  if (task.data_out_wanted < size) return bad_cdb(unit, task, 1);
  if (task.flags != 0 || all_zero(task.data.data(), size)) return zero_next(unit, task);
  const std::size_t bytes = std::min<std::uint64_t>(task.blocks * size, chunk_bytes);
  if (!take_scratch(unit, task, bytes)) return end_status(task, scsi::Status::task_set_full);
  for (std::size_t at = 0; at < bytes; at += size)
    std::memcpy(task.scratch.data() + at, task.data.data(), size);
  return pattern_next(unit, task);
}

}  // namespace

TaskNext start_unmap(UnitState& unit, ScsiTask& task) {
  if ((task.cdb[1] & 0x01) != 0) return bad_cdb(unit, task, 1);  // ANCHOR: nothing is anchored
  if (unit.block_count() == 0) return end_not_ready(unit, task);
  if (!writable(unit, task)) return TaskNext::ended;
  return want_data(unit, task, scsi::load16(&task.cdb[7]), unmap_with_data);
}

TaskNext start_write_same(UnitState& unit, ScsiTask& task) {
  const bool no_data = task.cdb[0] == 0x93 && (task.cdb[1] & 0x01) != 0;  // NDOB
  const bool unmaps = (task.cdb[1] & 0x08) != 0;
  if (!no_protection(unit, task)) return TaskNext::ended;
  if ((task.cdb[1] & 0x16) != 0 || (unmaps && !unit.options.thin))  // ANCHOR, PBDATA, LBDATA
    return bad_cdb(unit, task, 1);
  if (!take_range(unit, task)) return TaskNext::ended;
  if (task.blocks == 0) task.blocks = unit.block_count() - task.lba;  // WSNZ is 0
  const std::uint64_t size = unit.options.block_size;
  if (!writable(unit, task)) return TaskNext::ended;
  task.flags = unmaps ? io_flag::may_trim : 0;
  // One block, whatever the range; more is a mistake of the initiator's that would be written
  // nowhere.
  if (!no_data && task.expected_out > size) return bad_cdb(unit, task, 1);
  return no_data ? want_data(unit, task, 0, zero_next)
                 : want_data(unit, task, size, same_with_data);
}

}  // namespace blockloom
