#include <algorithm>
#include <new>
#include <utility>

#include "server/iscsi/unit_state.hpp"

// Task management (SAM-5 7): what is aborted, and who waits for it to end.

namespace blockloom {

using scsi::Asc;
using Phase = ScsiTask::Phase;

namespace {

bool concerns(const UnitState::Wait& wait, const ScsiTask& task) noexcept {
  return task.sequence <= wait.upto && (wait.nexus == nullptr || wait.nexus == task.nexus) &&
         (wait.task == nullptr || wait.task == &task);
}

}  // namespace

void UnitState::ask_to_end_locked(ScsiTask& task) noexcept {
  task.abort_asked.store(true, std::memory_order_seq_cst);
  Phase waiting = Phase::waiting_data;
  if (task.phase.compare_exchange_strong(waiting, Phase::stopping)) {
    task.stop_told = true;
    task.stop(task);
  } else if (task.blocked) {
    task.blocked = false;
    task.again(task);
  } else if (sanitizing.waiter == &task) {
    sanitizing.waiter = nullptr;  // the operation goes on
    task.again(task);
  } else if (task.device.load(std::memory_order_relaxed)->withdraw(task.request)) {
    // It waited for the device to be resumed.
    task.again(task);
  }
}

void UnitState::abort_locked(TaskManagement& management, const Nexus* nexus, const ScsiTask* task) {
  waits.reserve(waits.size() + 1);
  Wait wait{&management, nexus, task, sequence, 0};
  for (const ScsiTask* t = first; t != nullptr; t = t->next_task)
    if (concerns(wait, *t)) ++wait.left;
  if (wait.left == 0) return;
  management.left.fetch_add(1, std::memory_order_relaxed);
  waits.push_back(wait);
  for (ScsiTask* t = first; t != nullptr; t = t->next_task)
    if (concerns(wait, *t)) ask_to_end_locked(*t);
}

void UnitState::count_ended_locked(const ScsiTask& task, TaskManagement*& done) noexcept {
  for (Wait& wait : waits) {
    if (!concerns(wait, task) || --wait.left != 0) continue;
    if (wait.management->left.fetch_sub(1, std::memory_order_acq_rel) == 1)
      wait.management->next_done = std::exchange(done, wait.management);
  }
  std::erase_if(waits, [](const Wait& wait) { return wait.left == 0; });
}

void UnitState::reset_locked(Asc why) {
  reserved_by = nullptr;
  set_mode({});
  for (NexusLun* path : paths)
    path->prevents_removal = false;
  copies = {};
  raise_others_locked(nullptr, why);
}

void UnitState::forget_locked(NexusLun& path) noexcept {
  path.gone = true;
  if (reserved_by == &path) reserved_by = nullptr;
  for (CopyOutcome& copy : copies)
    if (copy.nexus == path.nexus) copy = {};
  std::erase(paths, &path);
}

// --- The functions, as a nexus asks for them --------------------------------------------------

namespace {

/// What one function does to one unit. CLEAR TASK SET tells those whose tasks it took.
void apply_locked(UnitState& unit, NexusLun& path, TaskManagement& management) {
  switch (management.function) {
    case TaskFunction::abort_task:
      unit.abort_locked(management, path.nexus, management.task);
      break;
    case TaskFunction::abort_task_set:
      unit.abort_locked(management, path.nexus, nullptr);
      break;
    case TaskFunction::clear_task_set:
      for (NexusLun* other : unit.paths) {
        if (other == &path) continue;
        for (const ScsiTask* t = unit.first; t != nullptr; t = t->next_task)
          if (t->nexus == other->nexus) {
            unit.raise_locked(*other, Asc::commands_cleared_by_other);
            break;
          }
      }
      unit.abort_locked(management, nullptr, nullptr);
      break;
    case TaskFunction::nexus_loss:
      unit.abort_locked(management, path.nexus, nullptr);
      unit.forget_locked(path);
      break;
    default:
      unit.reset_locked(Asc::bus_device_reset);
      unit.abort_locked(management, nullptr, nullptr);
      break;
  }
}

bool is_of_target(TaskFunction function) noexcept {
  return function == TaskFunction::target_warm_reset ||
         function == TaskFunction::target_cold_reset || function == TaskFunction::nexus_loss;
}

void apply_to_path(NexusLun& path, TaskManagement& management) {
  if (path.unit == nullptr) return;
  UnitState& unit = path.unit->state();
  const std::lock_guard lock(unit.mutex);
  apply_locked(unit, path, management);
}

}  // namespace

Submit Nexus::manage(TaskManagement& management) noexcept {
  management.response = TaskResponse::complete;
  management.left.store(1, std::memory_order_relaxed);
  try {
    if (is_of_target(management.function)) {
      std::vector<std::shared_ptr<NexusLun>> luns;
      {
        const std::lock_guard lock(mutex_);
        if (management.function == TaskFunction::nexus_loss) {
          lost_ = true;
          luns.swap(luns_);
        } else {
          luns = luns_;
        }
      }
      for (const auto& path : luns)
        apply_to_path(*path, management);
    } else if (management.function == TaskFunction::clear_aca ||
               static_cast<unsigned>(management.function) - 1 > 6) {
      management.response = TaskResponse::not_supported;
    } else if (management.function == TaskFunction::abort_task && management.task == nullptr) {
      management.response = TaskResponse::no_task;
    } else if (const auto path = find(management.lun); path->unit == nullptr) {
      management.response = TaskResponse::no_lun;
    } else {
      apply_to_path(*path, management);
    }
  } catch (const std::bad_alloc&) {
    management.response = TaskResponse::rejected;
  }
  return management.left.fetch_sub(1, std::memory_order_acq_rel) == 1 ? Submit::done
                                                                      : Submit::pending;
}

}  // namespace blockloom
