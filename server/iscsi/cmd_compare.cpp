#include <algorithm>
#include <cstring>

#include "server/iscsi/unit_state.hpp"

// COMPARE AND WRITE, and ORWRITE: the blocks are held against every other writer of the device,
// NBD's too, from the read to the end of the write.

namespace blockloom {

using scsi::Asc;
using scsi::SenseKey;

namespace {

std::size_t bytes_of(const UnitState& unit, const ScsiTask& task) noexcept {
  return task.blocks * unit.options.block_size;
}

TaskNext read_held(UnitState& unit, ScsiTask& task, ScsiTask::Step then) {
  if (!take_scratch(unit, task, bytes_of(unit, task)))
    return end_status(task, scsi::Status::task_set_full);
  return submit_io(unit, task, Op::read, task.lba, task.blocks, task.scratch.data(), 0, then);
}

TaskNext written(UnitState& unit, ScsiTask& task) {
  if (task.request.status != Errc::ok) return end_error(unit, task, task.request.status, false);
  return end_good(task);
}

// --- COMPARE AND WRITE (SBC-3 5.2): the data is what to compare with, then what to write --------

TaskNext compare(UnitState& unit, ScsiTask& task) {
  if (task.request.status != Errc::ok) return end_error(unit, task, task.request.status, true);
  const std::size_t size = bytes_of(unit, task);
  const std::byte* expected = task.data.data();
  const auto [differs, medium] = std::mismatch(expected, expected + size, task.scratch.data());
  if (differs != expected + size)
    return end_check(unit, task,
                     {SenseKey::miscompare, Asc::miscompare_during_verify,
                      static_cast<std::uint64_t>(differs - expected)});
  return submit_io(unit, task, Op::write, task.lba, task.blocks, task.data.data() + size,
                   write_flags(unit, task), written);
}

TaskNext compare_held(UnitState& unit, ScsiTask& task) {
  return read_held(unit, task, compare);
}

TaskNext compare_with_data(UnitState& unit, ScsiTask& task) {
  // Half of it, or none, says nothing of what to compare and what to write.
  if (task.data_out_wanted < task.presented) return bad_cdb(unit, task, 13);
  return hold_range(unit, task, compare_held);
}

// --- ORWRITE (SBC-3 5.9) ------------------------------------------------------------------------

TaskNext combine(UnitState& unit, ScsiTask& task) {
  if (task.request.status != Errc::ok) return end_error(unit, task, task.request.status, true);
  const std::size_t size = bytes_of(unit, task);
  std::byte* sent = task.data.data();
  const std::byte* medium = task.scratch.data();
  for (std::size_t i = 0; i < size; ++i)
    sent[i] |= medium[i];
  return submit_io(unit, task, Op::write, task.lba, task.blocks, sent, write_flags(unit, task),
                   written);
}

TaskNext or_held(UnitState& unit, ScsiTask& task) {
  return read_held(unit, task, combine);
}

TaskNext or_with_data(UnitState& unit, ScsiTask& task) {
  task.blocks = task.data_out_wanted / unit.options.block_size;
  if (task.blocks == 0) return end_good(task);
  return hold_range(unit, task, or_held);
}

}  // namespace

TaskNext start_compare_and_write(UnitState& unit, ScsiTask& task) {
  if (!no_protection(unit, task) || !take_range(unit, task)) return TaskNext::ended;
  if (task.blocks > scsi::compare_and_write_blocks) return bad_cdb(unit, task, 13);
  if (!writable(unit, task)) return TaskNext::ended;
  if (task.expected_out != 2 * bytes_of(unit, task)) return bad_cdb(unit, task, 13);
  if (task.blocks == 0) return end_good(task);
  return want_data(unit, task, 2 * bytes_of(unit, task), compare_with_data);
}

TaskNext start_or_write(UnitState& unit, ScsiTask& task) {
  if (!no_protection(unit, task) || !take_range(unit, task)) return TaskNext::ended;
  if (bytes_of(unit, task) > scsi::longest_transfer) return bad_cdb(unit, task, 10);
  if (!writable(unit, task)) return TaskNext::ended;
  return want_data(unit, task, bytes_of(unit, task), or_with_data);
}

}  // namespace blockloom
