#include <algorithm>
#include <new>
#include <utility>

#include "server/iscsi/unit_state.hpp"
#include "server/leg/nowait.hpp"

// A task's way through its unit: into the task set, from step to step, and out again.

namespace blockloom {

using scsi::Asc;
using scsi::SenseKey;
using scsi::Status;
using Phase = ScsiTask::Phase;

ScsiTask::ScsiTask() = default;
ScsiTask::~ScsiTask() = default;

void ScsiTask::reset() noexcept {
  data.reset();
  scratch.reset();
  extra.reset();
  path.reset();
  data_out_wanted = 0;
  aborted = false;
  status = Status::good;
  data_in_length = 0;
  sense_length = 0;
  presented = 0;
  phase.store(Phase::idle, std::memory_order_relaxed);
  abort_asked.store(false, std::memory_order_relaxed);
  stop_told = enabled = blocked = resubmit = holding = false;
  next = nullptr;
  request.queued_ns = 0;
  request.extents = nullptr;
  position = 0;
}

namespace {

/// What is left to tell when the unit's lock is no longer held.
struct Ended {
  std::shared_ptr<NexusLun> path;  // keeps the unit until all is told
  TaskManagement* managements = nullptr;

  void tell() noexcept {
    while (managements != nullptr) {
      TaskManagement& management = *managements;
      managements = management.next_done;
      management.complete(management);
    }
  }
};

bool must_wait_locked(const ScsiTask& task) noexcept {
  switch (task.attribute) {
    case TaskAttribute::head_of_queue:
      return false;
    case TaskAttribute::ordered:
      return task.prev_task != nullptr;
    default:
      for (const ScsiTask* older = task.prev_task; older != nullptr; older = older->prev_task)
        if (older->attribute == TaskAttribute::ordered) return true;
      return false;
  }
}

void insert_locked(UnitState& unit, ScsiTask& task) noexcept {
  task.sequence = ++unit.sequence;
  task.next_task = nullptr;
  task.prev_task = unit.last;
  (unit.last != nullptr ? unit.last->next_task : unit.first) = &task;
  unit.last = &task;
  ++unit.tasks;
  if (task.attribute == TaskAttribute::ordered) ++unit.ordered;
  task.enabled = unit.ordered == 0 || !must_wait_locked(task);
}

void wake_blocked_locked(UnitState& unit) noexcept {
  for (ScsiTask* task = unit.first; task != nullptr; task = task->next_task) {
    if (!task->blocked || must_wait_locked(*task)) continue;
    task->blocked = false;
    task->enabled = true;
    task->again(*task);
  }
}

/// Takes the task out of its set. Its owner may have it back once this has returned.
Ended finish(UnitState& unit, ScsiTask& task) noexcept {
  Ended ended;
  if (task.holding) {
    task.holding = false;
    unit.device->release(task.hold);
  }
  std::lock_guard lock(unit.mutex);
  (task.prev_task != nullptr ? task.prev_task->next_task : unit.first) = task.next_task;
  (task.next_task != nullptr ? task.next_task->prev_task : unit.last) = task.prev_task;
  --unit.tasks;
  if (task.attribute == TaskAttribute::ordered) --unit.ordered;
  if (task.abort_asked.load(std::memory_order_relaxed)) {
    task.aborted = true;
    unit.count_ended_locked(task, ended.managements);
  }
  if (unit.tasks != 0) wake_blocked_locked(unit);
  task.phase.store(Phase::ended, std::memory_order_relaxed);
  ended.path = std::move(task.path);
  return ended;
}

TaskStep end_now(UnitState& unit, ScsiTask& task) noexcept {
  finish(unit, task).tell();
  return TaskStep::ended;
}

/// A task that never came into the set.
TaskStep end_refused(ScsiTask& task) noexcept {
  task.phase.store(Phase::ended, std::memory_order_relaxed);
  task.path.reset();
  return TaskStep::ended;
}

/// True: the task's turn has not come, and it will be woken.
bool block(UnitState& unit, ScsiTask& task) noexcept {
  std::lock_guard lock(unit.mutex);
  task.enabled = task.abort_asked.load(std::memory_order_relaxed) || !must_wait_locked(task);
  task.blocked = !task.enabled;
  return task.blocked;
}

TaskNext take_step(UnitState& unit, ScsiTask& task) noexcept {
  try {
    return task.next(unit, task);
  } catch (const std::bad_alloc&) {
    return end_status(task, Status::busy);
  }
}

/// Waits for a disk whatever the page cache has.
bool waits(const Device& device, const Request& request) noexcept {
  if (request.op == Op::read || request.op == Op::cache || request.op == Op::extents) return false;
  if (request.op == Op::write && (request.flags & io_flag::fua) == 0) return false;
  const auto table = device.live_table();
  return table && table->inline_only();
}

/// Submits the step's request; what would block this thread goes to another.
Submit submit(UnitState& unit, ScsiTask& task) noexcept {
  Device& device = *task.device.load(std::memory_order_relaxed);
  Request& request = task.request;
  SlowLane& lane = unit.units.slow_lane();
  if (waits(device, request) && lane.push(unit.slow, task)) return Submit::pending;
  if (request.op == Op::read) request.flags |= io_flag::nowait;
  if (device.submit(request) == Submit::pending) return Submit::pending;
  if (!would_wait(request.status, request.flags)) [[likely]]
    return Submit::done;
  request.flags = static_cast<std::uint8_t>(request.flags & ~io_flag::nowait);
  if (lane.push(unit.slow, task)) return Submit::pending;
  return device.submit(request);  // no thread to be had: this one waits
}

/// From step to step. `ended`: the caller finishes the task.
TaskStep drive(UnitState& unit, ScsiTask& task, bool asks_only) noexcept {
  TaskNext what = TaskNext::step;
  for (;;) {
    switch (what) {
      case TaskNext::ended:
        return TaskStep::ended;
      case TaskNext::io:
        if (submit(unit, task) == Submit::pending) return TaskStep::running;
        break;
      case TaskNext::data:
        return TaskStep::wants_data;
      case TaskNext::yield:
        task.again(task);
        return TaskStep::running;
      case TaskNext::wait:
        return TaskStep::running;
      case TaskNext::step:
        break;
    }
    if (task.abort_asked.load(std::memory_order_relaxed)) [[unlikely]]
      return TaskStep::ended;
    if (!task.enabled && !asks_only) [[unlikely]] {
      if (block(unit, task)) return TaskStep::running;
    }
    asks_only = false;
    what = take_step(unit, task);
  }
}

/// Goes on after something ended on another thread.
void go_on(ScsiTask& task) noexcept {
  UnitState& unit = task.path->unit->state();
  if (drive(unit, task, false) != TaskStep::ended) return;
  Ended ended = finish(unit, task);
  // Its answer is handed over before those who waited for its end are told.
  task.complete(task);
  ended.tell();
}

void request_ended(Request& request) noexcept {
  go_on(*static_cast<ScsiTask*>(request.owner));
}

void request_again(Request& request) noexcept {
  auto& task = *static_cast<ScsiTask*>(request.owner);
  task.resubmit = true;
  task.again(task);
}

bool is_free_of_attention(scsi::Command command) noexcept {
  return command == scsi::Command::inquiry || command == scsi::Command::report_luns ||
         command == scsi::Command::request_sense;
}

}  // namespace

TaskStep UnitState::begin(ScsiTask& task) noexcept {
  task.device.store(&*device, std::memory_order_relaxed);
  task.request.owner = &task;
  task.request.complete = request_ended;
  task.request.retry = request_again;
  const scsi::Lookup found = scsi::find_command(task.cdb);
  const bool supported = found.info != nullptr && has_command(*this, *found.info);
  const bool free = supported && is_free_of_attention(found.info->command);
  {
    std::unique_lock lock(mutex);
    NexusLun& path = *task.path;
    if (device->size().value != known_size) [[unlikely]]
      notice_size_locked();
    const bool dead = device->dead() != Errc::ok;
    if (path.gone || (dead && !free)) {
      lock.unlock();
      end_check(*this, task, SenseKey::illegal_request, Asc::unit_not_supported);
      return end_refused(task);
    }
    if (path.attention_count != 0 && !free) [[unlikely]] {
      const Asc why = take_attention_locked(path);
      lock.unlock();
      end_check(*this, task, SenseKey::unit_attention, why);
      return end_refused(task);
    }
    if (supported && kept_out_locked(task, *found.info)) [[unlikely]] {
      end_status(task, Status::reservation_conflict);
      return end_refused(task);
    }
    if (supported && refused_by_sanitizing(*this, task, found.info->command)) [[unlikely]]
      return end_refused(task);
    if (tasks >= units.options().tasks_per_unit) [[unlikely]] {
      end_status(task, Status::task_set_full);
      return end_refused(task);
    }
    insert_locked(*this, task);
    task.phase.store(Phase::running, std::memory_order_relaxed);
  }
  if (!supported) {
    // Another service action of the opcode would be.
    const scsi::CommandInfo* const row = scsi::find_opcode(task.cdb[0]);
    if (row != nullptr && row->service_action >= 0 && has_command(*this, *row))
      bad_cdb(*this, task, 1);
    else
      end_check(*this, task, SenseKey::illegal_request, Asc::invalid_opcode);
    return end_now(*this, task);
  }
  if ((task.cdb[found.info->length - 1u] & 0x04) != 0) {  // NACA: not supported
    bad_cdb(*this, task, found.info->length - 1u);
    return end_now(*this, task);
  }
  const CommandStart start = start_of(found.info->command);
  task.next = start.step;
  const TaskStep step = drive(*this, task, start.takes_data);
  if (step == TaskStep::ended) return end_now(*this, task);
  return step;
}

TaskStep UnitState::proceed(ScsiTask& task) noexcept {
  Phase waiting = Phase::waiting_data;
  task.phase.compare_exchange_strong(waiting, Phase::running);
  // Otherwise it was told to stop, and drive() sees that.
  const TaskStep step = drive(*this, task, false);
  if (step == TaskStep::ended) return end_now(*this, task);
  return step;
}

TaskStep UnitState::run_again(ScsiTask& task) noexcept {
  if (std::exchange(task.resubmit, false) && submit(*this, task) == Submit::pending)
    return TaskStep::running;
  const TaskStep step = drive(*this, task, false);
  if (step == TaskStep::ended) return end_now(*this, task);
  return step;
}

void UnitState::abandon(ScsiTask& task) noexcept {
  task.aborted = true;
  end_now(*this, task);
}

// --- For the commands -----------------------------------------------------------------------

TaskNext want_data(UnitState& unit, ScsiTask& task, std::uint64_t bytes,
                   ScsiTask::Step then) noexcept {
  task.next = then;
  task.presented = bytes;
  task.data_out_wanted =
      static_cast<std::uint32_t>(std::min<std::uint64_t>(bytes, task.expected_out));
  if (task.data_out_wanted == 0) return TaskNext::step;
  task.data = unit.units.buffers().take(task.data_out_wanted);
  if (!task.data) return end_status(task, Status::task_set_full);
  // An abort between here and the caller's return finds it waiting, and says stop: the transport
  // hears that after it heard of the data, for it posts.
  Phase running = Phase::running;
  task.phase.compare_exchange_strong(running, Phase::waiting_data);
  return TaskNext::data;
}

}  // namespace blockloom
