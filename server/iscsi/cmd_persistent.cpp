#include <exception>

#include "server/base/log.hpp"
#include "server/iscsi/reservation_file.hpp"
#include "server/iscsi/unit_state.hpp"

// PERSISTENT RESERVE IN and OUT. A change works on a copy, which is made durable before it is
// what the unit goes by (APTPL), and one change at a time.

namespace blockloom {

using scsi::Asc;
using scsi::ReserveOut;
using scsi::SenseKey;
using scsi::Status;

TaskNext start_persistent_in(UnitState& unit, ScsiTask& task) {
  scsi::Output data;
  {
    const std::lock_guard lock(unit.mutex);
    const scsi::ReservationRecord record = unit.reservations.record();
    switch (task.cdb[1] & 0x1f) {
      case 0:
        data = scsi::read_keys(record);
        break;
      case 1:
        data = scsi::read_reservation(record);
        break;
      case 2:
        data = scsi::report_capabilities(!unit.units.options().folder.empty(),
                                         unit.reservations.aptpl());
        break;
      default:
        data = scsi::read_full_status(record);
        break;
    }
  }
  return end_data(unit, task, data, scsi::load16(&task.cdb[7]));
}

namespace {

// As long as a list with many TransportIDs gets.
constexpr std::uint32_t longest_list = 64u << 10;

TaskNext change(UnitState& unit, ScsiTask& task);

void let_next_change_locked(UnitState& unit) noexcept {
  unit.saving = false;
  for (ScsiTask* waiting : unit.after_saving)
    resume_task(*waiting);
  unit.after_saving.clear();
}

/// Tasks of the registrations that were preempted end before the command does.
void abort_preempted_locked(UnitState& unit, TaskExtra& extra) {
  for (const Reservations::Registration& gone : extra.effect.abort)
    for (const NexusLun* path : unit.paths)
      if (gone.covers(path->nexus->ports())) unit.abort_locked(extra.abort, path->nexus, nullptr);
}

TaskNext aborted_all(UnitState&, ScsiTask& task) {
  return end_good(task);
}

TaskNext commit(UnitState& unit, ScsiTask& task) {
  TaskExtra& extra = *task.extra;
  const std::lock_guard lock(unit.mutex);
  unit.reservations = std::move(extra.changed);
  unit.refresh_kept_out_locked();
  for (const auto& attention : extra.effect.attentions)
    for (NexusLun* path : unit.paths)
      if (path != task.path.get() && attention.to.covers(path->nexus->ports()))
        unit.raise_locked(*path, attention.why);
  let_next_change_locked(unit);
  if (extra.effect.abort.empty()) return end_good(task);

  task.next = aborted_all;
  extra.abort.owner = &task;
  extra.abort.complete = [](TaskManagement& management) noexcept {
    resume_task(*static_cast<ScsiTask*>(management.owner));
  };
  extra.abort.left.store(1, std::memory_order_relaxed);
  abort_preempted_locked(unit, extra);
  const bool none = extra.abort.left.fetch_sub(1, std::memory_order_acq_rel) == 1;
  return none ? TaskNext::step : TaskNext::wait;
}

TaskNext saved(UnitState& unit, ScsiTask& task) {
  if (task.extra->saved) return commit(unit, task);
  const std::lock_guard lock(unit.mutex);
  let_next_change_locked(unit);
  return end_check(unit, task, SenseKey::hardware_error, Asc::internal_failure);
}

/// On the worker, for it waits for the disk.
void save(UnitState& unit, ScsiTask& task, Errc scheduled) noexcept {
  Result<void> written = Error{scheduled, "the engine stops"};
  if (scheduled == Errc::ok)
    written = write_reservations(unit.units.options().folder, scsi::naa_text(unit.identity),
                                 task.extra->changed);
  if (!written) log_error("reservations are not changed: " + written.error().message);
  task.extra->saved = static_cast<bool>(written);
  resume_task(task);
}

Reservations::Effect apply(UnitState& unit, ScsiTask& task, Reservations& changed) {
  Reservations::Effect effect;
  const auto action = static_cast<ReserveOut>(task.cdb[1] & 0x1f);
  const NexusPorts& from = task.nexus->ports();
  const bool durable = !unit.units.options().folder.empty();
  const auto fail = [&](const scsi::Sense& sense) {
    effect.status = Status::check_condition;
    effect.sense = sense;
    return effect;
  };
  const scsi::Sense no_aptpl{
      SenseKey::illegal_request, Asc::invalid_field_in_parameters, {}, 20, false};
  if (action == ReserveOut::register_and_move) {
    const auto parsed = scsi::parse_move(data_of(task));
    if (parsed.sense) return fail(*parsed.sense);
    if (parsed.list.aptpl && !durable) return fail(no_aptpl);
    return changed.move(from, parsed.list);
  }
  const auto parsed = scsi::parse_reserve_out(data_of(task), action);
  if (parsed.sense) return fail(*parsed.sense);
  if (parsed.list.aptpl && !durable) return fail(no_aptpl);
  return changed.out(action, task.cdb[2], from, parsed.list);
}

TaskNext change(UnitState& unit, ScsiTask& task) {
  task.extra = std::make_unique<TaskExtra>();
  TaskExtra& extra = *task.extra;
  bool was_durable = false;
  {
    const std::lock_guard lock(unit.mutex);
    if (unit.saving) {
      unit.after_saving.push_back(&task);
      return TaskNext::wait;
    }
    // A task whose nexus was lost while its data was on the way registers nobody.
    if (task.path->gone) return end_status(task, Status::reservation_conflict);
    was_durable = unit.reservations.aptpl();
    extra.changed = unit.reservations;
    extra.effect = apply(unit, task, extra.changed);
    if (extra.effect.sense) return end_check(unit, task, *extra.effect.sense);
    if (extra.effect.status != Status::good) return end_status(task, extra.effect.status);
    if (!extra.effect.changed) return end_good(task);
    unit.saving = true;
  }
  if (!was_durable && !extra.changed.aptpl()) return commit(unit, task);
  task.next = saved;
  try {
    unit.units.worker().schedule(Clock::now(),
                                 [&unit, &task](Errc status) { save(unit, task, status); });
  } catch (const std::exception&) {  // no memory, or no thread
    return saved(unit, task);
  }
  return TaskNext::wait;
}

}  // namespace

TaskNext start_persistent_out(UnitState& unit, ScsiTask& task) {
  const std::uint32_t length = scsi::load32(&task.cdb[5]);
  if (length < 24 || length > longest_list)
    return end_check(unit, task, SenseKey::illegal_request, Asc::parameter_list_length);
  // Short data is found by the lengths inside it.
  return want_data(unit, task, length, change);
}

}  // namespace blockloom
