#include <algorithm>

#include "server/iscsi/unit_state.hpp"

// SANITIZE (SBC-3 5.29), for units whose owner says that their legs write in place: OVERWRITE, and
// BLOCK ERASE, which overwrites with zeroes and then unmaps.

namespace blockloom {

using scsi::Asc;
using scsi::SenseKey;

namespace {

constexpr std::uint8_t immediate_bit = 0x80, may_exit_bit = 0x20, action_bits = 0x1f;
enum : std::uint8_t { overwrite_action = 0x01, exit_action = 0x1f };

/// What the operation ended with, for the command that waited.
TaskNext sanitize_finished(UnitState& unit, ScsiTask& task) {
  if (unit.sanitizing.state == SanitizeState::failed)
    return end_check(unit, task, SenseKey::medium_error, Asc::sanitize_failed);
  return end_good(task);
}

TaskNext begin_operation(UnitState& unit, ScsiTask& task, SanitizePlan plan) {
  const bool waits = (task.cdb[1] & immediate_bit) == 0;
  Sanitizing& sanitizing = unit.sanitizing;
  SanitizeState before = SanitizeState::none;
  {
    const std::lock_guard lock(unit.mutex);
    before = sanitizing.state;
    if (before == SanitizeState::running)
      return end_check(unit, task, {SenseKey::not_ready, Asc::sanitize_in_progress});
    if (task.abort_asked) return end_good(task);
    sanitizing.state = SanitizeState::running;
    sanitizing.progress = 0;
    sanitizing.may_exit = (task.cdb[1] & may_exit_bit) != 0;
    sanitizing.waiter = waits ? &task : nullptr;
    task.next = sanitize_finished;
  }
  if (!unit.units.sanitizers().start(task.path->unit, std::move(plan))) {
    const std::lock_guard lock(unit.mutex);
    sanitizing.state = before;
    sanitizing.waiter = nullptr;
    return end_status(task, scsi::Status::busy);
  }
  return waits ? TaskNext::wait : end_good(task);
}

TaskNext overwrite_with_data(UnitState& unit, ScsiTask& task) {
  const scsi::Input list = data_of(task);
  if (list.size() < scsi::load16(&task.cdb[7])) return bad_cdb(unit, task, 7);
  const unsigned passes = list[0] & 0x1f;
  const std::size_t length = scsi::load16(&list[2]);
  // All of these are mistakes in the CDB, for SBC-3.
  if (passes == 0 || length == 0 || length > unit.options.block_size || length > list.size() - 4)
    return end_check(unit, task, SenseKey::illegal_request, Asc::invalid_field_in_cdb);
  SanitizePlan plan;
  plan.passes = passes;
  plan.inverts = (list[0] & 0x80) != 0;
  plan.block.resize(unit.options.block_size);
  for (std::size_t at = 0; at < plan.block.size(); ++at)
    plan.block[at] = list[4 + at % length];
  return begin_operation(unit, task, std::move(plan));
}

TaskNext leave_failure(UnitState& unit, ScsiTask& task) {
  const std::lock_guard lock(unit.mutex);
  Sanitizing& sanitizing = unit.sanitizing;
  if (sanitizing.state == SanitizeState::running)
    return end_check(unit, task, {SenseKey::not_ready, Asc::sanitize_in_progress});
  if (sanitizing.state == SanitizeState::failed) {
    if (!sanitizing.may_exit) return bad_cdb(unit, task, 1);
    sanitizing.state = SanitizeState::none;
  }
  return end_good(task);
}

}  // namespace

TaskNext start_sanitize(UnitState& unit, ScsiTask& task) {
  if ((task.cdb[1] & 0x40) != 0) return bad_cdb(unit, task, 1);
  for (std::uint16_t at = 2; at < 7; ++at)
    if (task.cdb[at] != 0) return bad_cdb(unit, task, at);
  if (unit.block_count() == 0) return end_not_ready(unit, task);
  if (!writable(unit, task)) return TaskNext::ended;
  const std::uint32_t length = scsi::load16(&task.cdb[7]);
  const std::uint8_t action = task.cdb[1] & action_bits;
  if (action == overwrite_action) {
    if (length < 5 || length > unit.options.block_size + 4) return bad_cdb(unit, task, 7);
    return want_data(unit, task, length, overwrite_with_data);
  }
  if (length != 0) return bad_cdb(unit, task, 7);
  if (action == exit_action) return leave_failure(unit, task);
  SanitizePlan plan;
  plan.block.resize(unit.options.block_size);
  plan.unmaps = true;
  return begin_operation(unit, task, std::move(plan));
}

bool refused_by_sanitizing(UnitState& unit, ScsiTask& task, scsi::Command command) noexcept {
  using scsi::Command;
  const SanitizeState state = unit.sanitizing.state.load(std::memory_order_relaxed);
  if (state == SanitizeState::none) [[likely]]
    return false;
  switch (command) {
    case Command::inquiry:
    case Command::report_luns:
    case Command::request_sense:
    case Command::report_opcodes:
    case Command::report_task_functions:
    case Command::report_target_port_groups:
    case Command::persistent_in:
      return false;
    case Command::sanitize:
      if (state == SanitizeState::failed) return false;
      break;
    default:
      break;
  }
  if (state == SanitizeState::failed)
    end_check(unit, task, SenseKey::medium_error, Asc::sanitize_failed);
  else
    end_check(unit, task, sanitizing_sense(unit));
  return true;
}

scsi::Sense sanitizing_sense(const UnitState& unit) noexcept {
  scsi::Sense sense{SenseKey::not_ready, Asc::sanitize_in_progress};
  sense.progress = unit.sanitizing.progress.load(std::memory_order_relaxed);
  return sense;
}

}  // namespace blockloom
