#include <algorithm>

#include "server/iscsi/unit_state.hpp"

// READ and WRITE in all lengths; SYNCHRONIZE CACHE, PRE-FETCH.

namespace blockloom {

using scsi::Asc;
using scsi::SenseKey;

namespace {

TaskNext read_ended(UnitState& unit, ScsiTask& task) {
  if (task.request.status != Errc::ok) [[unlikely]]
    return end_error(unit, task, task.request.status, true);
  task.data_in_length =
      static_cast<std::uint32_t>(std::min<std::uint64_t>(task.presented, task.expected_in));
  return end_good(task);
}

TaskNext write_ended(UnitState& unit, ScsiTask& task) {
  if (task.request.status != Errc::ok) [[unlikely]]
    return end_error(unit, task, task.request.status, false);
  return end_good(task);
}

TaskNext write_with_data(UnitState& unit, ScsiTask& task) {
  // What the initiator did not bring is not written: whole blocks only.
  const std::uint64_t blocks = task.data_out_wanted / unit.options.block_size;
  if (blocks == 0) return end_good(task);
  return submit_io(unit, task, Op::write, task.lba, blocks, task.data.data(),
                   write_flags(unit, task), write_ended);
}

bool short_enough(UnitState& unit, ScsiTask& task) noexcept {
  if (task.blocks * unit.options.block_size <= scsi::longest_transfer) return true;
  bad_cdb(unit, task, scsi::cdb_length(task.cdb[0]) == 10 ? 7 : 10);
  return false;
}

}  // namespace

TaskNext start_read(UnitState& unit, ScsiTask& task) {
  const bool six = task.cdb[0] == 0x08;
  if (!six && !no_protection(unit, task)) return TaskNext::ended;
  if (!take_range(unit, task) || !short_enough(unit, task)) return TaskNext::ended;
  task.presented = task.blocks * unit.options.block_size;
  // As many blocks as the initiator has room for.
  const std::uint64_t size = unit.options.block_size;
  const std::uint64_t blocks = std::min(task.blocks, (task.expected_in + size - 1) / size);
  if (blocks == 0) return end_good(task);
  task.data = unit.units.buffers().take(blocks * size);
  if (!task.data) return end_status(task, scsi::Status::task_set_full);
  return submit_io(unit, task, Op::read, task.lba, blocks, task.data.data(), 0, read_ended);
}

TaskNext start_write(UnitState& unit, ScsiTask& task) {
  const bool six = task.cdb[0] == 0x0a;
  if (!six && !no_protection(unit, task)) return TaskNext::ended;
  if (!take_range(unit, task) || !short_enough(unit, task) || !writable(unit, task))
    return TaskNext::ended;
  return want_data(unit, task, task.blocks * unit.options.block_size, write_with_data);
}

TaskNext start_synchronize_cache(UnitState& unit, ScsiTask& task) {
  if (!take_range(unit, task)) return TaskNext::ended;
  return submit_io(unit, task, Op::flush, 0, 0, nullptr, 0, write_ended);
}

TaskNext start_pre_fetch(UnitState& unit, ScsiTask& task) {
  if (!take_range(unit, task)) return TaskNext::ended;
  if (task.blocks == 0) task.blocks = unit.block_count() - task.lba;
  // Only a hint; not more than a client would read soon.
  const std::uint64_t most = scsi::longest_transfer / unit.options.block_size;
  return submit_io(unit, task, Op::cache, task.lba, std::min(task.blocks, most), nullptr, 0,
                   read_ended);
}

}  // namespace blockloom
