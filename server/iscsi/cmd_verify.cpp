#include <algorithm>
#include <cstring>

#include "server/iscsi/unit_state.hpp"

// VERIFY, and WRITE AND VERIFY. BYTCHK 0: the blocks can be read; 1: they are what the initiator
// sent; 3 (VERIFY): each is the one block that it sent (SBC-3 5.34, 5.41).

namespace blockloom {

using scsi::Asc;
using scsi::SenseKey;

namespace {

unsigned byte_check(const ScsiTask& task) noexcept {
  return task.cdb[1] >> 1 & 3;
}

std::uint64_t chunk_blocks(const UnitState& unit, const ScsiTask& task) noexcept {
  return std::min(chunk_bytes / unit.options.block_size, task.blocks - task.position);
}

bool chunk_is_right(const UnitState& unit, const ScsiTask& task) noexcept {
  const std::size_t size = unit.options.block_size;
  const std::uint64_t blocks = chunk_blocks(unit, task);
  const std::byte* medium = task.scratch.data();
  const std::byte* sent = task.data.data();
  if (byte_check(task) == 0) return true;
  if (byte_check(task) != 3)
    return std::memcmp(medium, sent + task.position * size, blocks * size) == 0;
  for (std::uint64_t i = 0; i < blocks; ++i)
    if (std::memcmp(medium + i * size, sent, size) != 0) return false;
  return true;
}

TaskNext chunk_read(UnitState& unit, ScsiTask& task);

TaskNext next_chunk(UnitState& unit, ScsiTask& task) {
  if (task.position >= task.blocks) return end_good(task);
  if (!take_scratch(unit, task, chunk_bytes)) return end_status(task, scsi::Status::task_set_full);
  return submit_io(unit, task, Op::read, task.lba + task.position, chunk_blocks(unit, task),
                   task.scratch.data(), 0, chunk_read);
}

TaskNext chunk_read(UnitState& unit, ScsiTask& task) {
  if (task.request.status != Errc::ok) return end_error(unit, task, task.request.status, true);
  if (!chunk_is_right(unit, task))
    return end_check(unit, task, SenseKey::miscompare, Asc::miscompare_during_verify);
  task.position += chunk_blocks(unit, task);
  if (task.position * unit.options.block_size % turn_bytes != 0) return next_chunk(unit, task);
  task.next = next_chunk;
  return TaskNext::yield;
}

/// What came is what is compared: an initiator that sent less gets less compared.
TaskNext verify_with_data(UnitState& unit, ScsiTask& task) {
  const std::uint64_t received = task.data_out_wanted / unit.options.block_size;
  if (byte_check(task) == 1) task.blocks = std::min(task.blocks, received);
  if (byte_check(task) == 3 && received == 0) return end_good(task);
  return next_chunk(unit, task);
}

TaskNext write_done(UnitState& unit, ScsiTask& task) {
  if (task.request.status != Errc::ok) return end_error(unit, task, task.request.status, false);
  return next_chunk(unit, task);
}

TaskNext write_then_verify(UnitState& unit, ScsiTask& task) {
  task.blocks = task.data_out_wanted / unit.options.block_size;
  if (task.blocks == 0) return end_good(task);
  return submit_io(unit, task, Op::write, task.lba, task.blocks, task.data.data(), io_flag::fua,
                   write_done);
}

}  // namespace

TaskNext start_verify(UnitState& unit, ScsiTask& task) {
  if (!no_protection(unit, task) || !take_range(unit, task)) return TaskNext::ended;
  const std::uint64_t size = unit.options.block_size;
  switch (byte_check(task)) {
    case 0:
      return want_data(unit, task, 0, next_chunk);
    case 1:
      if (task.blocks * size > scsi::longest_transfer) return bad_cdb(unit, task, 10);
      return want_data(unit, task, task.blocks * size, verify_with_data);
    case 3:
      return want_data(unit, task, task.blocks == 0 ? 0 : size, verify_with_data);
    default:
      return bad_cdb(unit, task, 1);
  }
}

TaskNext start_write_and_verify(UnitState& unit, ScsiTask& task) {
  if (!no_protection(unit, task) || !take_range(unit, task)) return TaskNext::ended;
  if (byte_check(task) > 1) return bad_cdb(unit, task, 1);
  const std::uint64_t bytes = task.blocks * unit.options.block_size;
  if (bytes > scsi::longest_transfer) return bad_cdb(unit, task, 10);
  if (!writable(unit, task)) return TaskNext::ended;
  return want_data(unit, task, bytes, write_then_verify);
}

}  // namespace blockloom
