#include "server/iscsi/unit_state.hpp"

// START STOP UNIT, PREVENT ALLOW MEDIUM REMOVAL, RESERVE and RELEASE.

namespace blockloom {

using scsi::Asc;
using scsi::SenseKey;
using scsi::Status;

namespace {

TaskNext flushed(UnitState& unit, ScsiTask& task) {
  if (task.request.status != Errc::ok) return end_error(unit, task, task.request.status, false);
  return end_good(task);
}

}  // namespace

namespace {

/// Takes a removable unit's medium out, or puts it in again; every nexus hears of the latter.
TaskNext move_medium(UnitState& unit, ScsiTask& task, bool in) {
  const std::lock_guard lock(unit.mutex);
  for (const NexusLun* path : unit.paths)
    if (path->prevents_removal)
      return end_check(unit, task, SenseKey::illegal_request, Asc::removal_prevented);
  const bool was_out = unit.ejected.exchange(!in);
  if (in && was_out) unit.raise_others_locked(task.path.get(), Asc::medium_changed);
  return end_good(task);
}

TaskNext eject(UnitState& unit, ScsiTask& task) {
  if (task.request.status != Errc::ok) return end_error(unit, task, task.request.status, false);
  return move_medium(unit, task, false);
}

}  // namespace

// A unit that several hosts share is not stopped by one of them: stopping makes what was written
// durable, and nothing else. Power conditions there are none; LOEJ is for a removable unit.
TaskNext start_start_stop(UnitState& unit, ScsiTask& task) {
  const bool start = (task.cdb[4] & 0x01) != 0;
  const bool load_or_eject = (task.cdb[4] & 0x02) != 0;
  const bool no_flush = (task.cdb[4] & 0x04) != 0;
  if (task.cdb[4] >> 4 != 0) return end_good(task);
  if (load_or_eject && !unit.options.removable) return bad_cdb(unit, task, 4);
  if (load_or_eject && start) return move_medium(unit, task, true);
  if (load_or_eject) return submit_io(unit, task, Op::flush, 0, 0, nullptr, 0, eject);
  if (start || no_flush) return end_good(task);
  return submit_io(unit, task, Op::flush, 0, 0, nullptr, 0, flushed);
}

TaskNext start_prevent_allow(UnitState& unit, ScsiTask& task) {
  if ((task.cdb[4] & 0x02) != 0) return bad_cdb(unit, task, 4);
  const std::lock_guard lock(unit.mutex);
  task.path->prevents_removal = (task.cdb[4] & 0x01) != 0;
  return end_good(task);
}

// SPC-2 7.21: one nexus has the unit for itself, until it gives it back or is gone.
TaskNext start_reserve(UnitState& unit, ScsiTask& task) {
  // Third parties and extents are obsolete.
  if ((task.cdb[1] & (task.cdb[0] == 0x56 ? 0x13 : 0x11)) != 0) return bad_cdb(unit, task, 1);
  const std::lock_guard lock(unit.mutex);
  // A path that was lost meanwhile holds nothing any more.
  if (!unit.reservations.empty() || task.path->gone)
    return end_status(task, Status::reservation_conflict);
  unit.reserved_by = task.path.get();
  return end_good(task);
}

TaskNext start_release(UnitState& unit, ScsiTask& task) {
  const std::lock_guard lock(unit.mutex);
  if (!unit.reservations.empty()) return end_status(task, Status::reservation_conflict);
  if (unit.reserved_by == task.path.get()) unit.reserved_by = nullptr;
  return end_good(task);
}

bool UnitState::kept_out_locked(const ScsiTask& task,
                                const scsi::CommandInfo& info) const noexcept {
  using scsi::Access;
  using scsi::Command;
  const NexusLun& path = *task.path;
  const bool allows_removal = info.command == Command::prevent_allow && (task.cdb[4] & 3) == 0;
  if (reserved_by != nullptr) {
    const bool mine = reserved_by == &path;
    if (info.command == Command::persistent_out) return true;
    return !mine && info.access != Access::always && info.command != Command::release &&
           !allows_removal;
  }
  switch (info.access) {
    case Access::read:
      return path.kept_out.read;
    case Access::write:
      return path.kept_out.write;
    case Access::registrants:
      return path.kept_out.registrants;
    case Access::own_rules:
      if (info.command == Command::prevent_allow) return path.kept_out.write && !allows_removal;
      if (info.command == Command::start_stop)
        return path.kept_out.write && (task.cdb[4] & 0xf1) != 0x01;
      return false;
    default:
      return false;
  }
}

void UnitState::refresh_kept_out_locked() noexcept {
  for (NexusLun* path : paths)
    path->kept_out = reservations.kept_out(path->nexus->ports());
}

}  // namespace blockloom
