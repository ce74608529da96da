#pragma once

#include <array>
#include <atomic>
#include <mutex>
#include <string>
#include <vector>

#include "proto/scsi/command.hpp"
#include "proto/scsi/copy.hpp"
#include "proto/scsi/inquiry.hpp"
#include "proto/scsi/mode.hpp"
#include "proto/scsi/sense.hpp"
#include "server/iscsi/logical_unit.hpp"
#include "server/iscsi/reservations.hpp"
#include "server/iscsi/sanitize.hpp"
#include "server/iscsi/scsi_target.hpp"
#include "server/iscsi/scsi_task.hpp"
#include "server/iscsi/slow_lane.hpp"

/// The inside of a logical unit; only its own files include this.
namespace blockloom {

/// What a long command reads or writes at once, and how much of it others on its thread wait for.
inline constexpr std::uint64_t chunk_bytes = std::uint64_t{1} << 20;
inline constexpr std::uint64_t turn_bytes = std::uint64_t{8} << 20;

/// What a step of a command asks for. After `wait` and `yield` it has not touched the task again.
enum class TaskNext : std::uint8_t {
  ended,  ///< the results are set
  io,     ///< submit task.request, then task.next
  step,   ///< task.next at once
  data,   ///< data_out_wanted bytes from the initiator, then task.next
  yield,  ///< let others on this thread have a turn, then task.next
  wait,   ///< somebody calls resume_task() later
};

/// One LUN as one nexus sees it. Members after `unit` are under the unit's mutex.
struct NexusLun {
  Nexus* nexus = nullptr;
  std::uint16_t lun = 0;
  std::shared_ptr<LogicalUnit> unit;  ///< null: there is no such LUN

  static constexpr std::size_t most_attentions = 8;
  std::array<scsi::Asc, most_attentions> attentions{};  ///< oldest first
  std::size_t attention_count = 0;
  Reservations::KeptOut kept_out;
  bool prevents_removal = false;
  bool gone = false;  ///< the nexus was lost, or its LUN taken away
};

/// State of rare commands.
struct TaskExtra {
  Extents extents{1024};
  scsi::CopyList copy;
  std::size_t segment = 0;
  std::uint64_t copied = 0;  ///< bytes
  std::array<std::shared_ptr<LogicalUnit>, scsi::copy_targets> copy_units;
  Reservations changed;  ///< what PERSISTENT RESERVE OUT makes of the reservations
  Reservations::Effect effect;
  bool saved = false;
  TaskManagement abort;  ///< PREEMPT AND ABORT waits with it
};

/// How an EXTENDED COPY ended, kept for RECEIVE COPY RESULTS.
struct CopyOutcome {
  Nexus* nexus = nullptr;
  std::uint8_t list_id = 0;
  bool failed = false;
  std::uint16_t segments = 0;
  std::uint64_t bytes = 0;
};

struct UnitState {
  UnitState(LogicalUnits& owner, UnitOptions unit_options, DeviceHandle handle);

  LogicalUnits& units;
  const UnitOptions options;
  const DeviceHandle device;
  const scsi::Identity identity;
  const std::shared_ptr<SlowLane::Queue> slow = std::make_shared<SlowLane::Queue>();

  std::atomic<bool> ejected{false};  ///< the medium of a removable unit is out
  Sanitizing sanitizing;
  /// scsi::ModeValues, a bit each.
  std::atomic<std::uint8_t> mode_bits{0};

  mutable std::mutex mutex;  // protects what follows
  ScsiTask *first = nullptr, *last = nullptr;
  std::size_t tasks = 0;
  std::size_t ordered = 0;  ///< tasks in the set that are ORDERED
  std::uint64_t sequence = 0;
  std::vector<NexusLun*> paths;
  /// A task management function that waits for tasks of this unit.
  struct Wait {
    TaskManagement* management;
    const Nexus* nexus;    ///< null: of every nexus
    const ScsiTask* task;  ///< null: every task
    std::uint64_t upto;    ///< of the sequence
    std::uint32_t left;
  };
  std::vector<Wait> waits;
  std::uint64_t known_size = 0;
  Reservations reservations;
  bool saving = false;                  ///< a PERSISTENT RESERVE OUT is being made durable
  std::vector<ScsiTask*> after_saving;  ///< others that wait for that
  NexusLun* reserved_by = nullptr;      ///< RESERVE(6)
  std::array<CopyOutcome, 8> copies{};
  std::size_t next_copy = 0;

  // --- task_set.cpp -------------------------------------------------------------------------
  TaskStep begin(ScsiTask& task) noexcept;
  TaskStep proceed(ScsiTask& task) noexcept;
  TaskStep run_again(ScsiTask& task) noexcept;
  void abandon(ScsiTask& task) noexcept;

  // --- task_management.cpp ------------------------------------------------------------------
  /// Asks tasks to end: all, or those of one nexus, or one; `management` waits for them.
  void abort_locked(TaskManagement& management, const Nexus* nexus, const ScsiTask* task);
  /// Counts an aborted task's end; `done`, through next_done, are those who have waited for it.
  void count_ended_locked(const ScsiTask& task, TaskManagement*& done) noexcept;
  void ask_to_end_locked(ScsiTask& task) noexcept;
  void reset_locked(scsi::Asc why);
  void forget_locked(NexusLun& path) noexcept;

  // --- unit_attention.cpp -------------------------------------------------------------------
  void raise_locked(NexusLun& path, scsi::Asc why) noexcept;
  void raise_others_locked(const NexusLun* but, scsi::Asc why) noexcept;
  scsi::Asc take_attention_locked(NexusLun& path) noexcept;
  void drop_attention_locked(NexusLun& path, scsi::Asc why) noexcept;
  void notice_size_locked() noexcept;

  // --- what commands ask --------------------------------------------------------------------
  /// 0: there is no medium, or no table.
  std::uint64_t block_count() const noexcept {
    if (ejected.load(std::memory_order_relaxed)) [[unlikely]]
      return 0;
    return device->size().value / options.block_size;
  }
  scsi::ModeValues mode() const noexcept;
  void set_mode(const scsi::ModeValues& values) noexcept;
  bool write_protected() const noexcept {
    return options.read_only || device->read_only() || mode().software_protect;
  }
  scsi::UnitDescription description(const ScsiTask& task) const;
  scsi::ModeContext mode_context() const;
  bool kept_out_locked(const ScsiTask& task, const scsi::CommandInfo& info) const noexcept;
  void refresh_kept_out_locked() noexcept;
};

// --- For the commands ----------------------------------------------------------------------------

TaskNext end_good(ScsiTask& task) noexcept;
TaskNext end_status(ScsiTask& task, scsi::Status status) noexcept;
TaskNext end_check(UnitState& unit, ScsiTask& task, const scsi::Sense& sense) noexcept;
TaskNext end_check(UnitState& unit, ScsiTask& task, scsi::SenseKey key, scsi::Asc asc) noexcept;
/// Where block_count() is 0.
TaskNext end_not_ready(UnitState& unit, ScsiTask& task) noexcept;
/// 05/2400 with a field pointer to this byte of the CDB.
TaskNext bad_cdb(UnitState& unit, ScsiTask& task, std::uint16_t byte) noexcept;
/// What a request of the device ended with, as status and sense.
TaskNext end_error(UnitState& unit, ScsiTask& task, Errc error, bool reading) noexcept;
/// Data for the initiator, cut to its allocation length.
TaskNext end_data(UnitState& unit, ScsiTask& task, const scsi::Output& data,
                  std::uint64_t allocation) noexcept;

/// Asks for data: `bytes` is what the CDB says. Then `then`.
TaskNext want_data(UnitState& unit, ScsiTask& task, std::uint64_t bytes,
                   ScsiTask::Step then) noexcept;
inline scsi::Input data_of(const ScsiTask& task) noexcept {
  return {reinterpret_cast<const std::uint8_t*>(task.data.data()), task.data_out_wanted};
}

/// Prepares task.request, over blocks of the unit; then `then`.
TaskNext submit_io(UnitState& unit, ScsiTask& task, Op op, std::uint64_t lba, std::uint64_t blocks,
                   std::byte* data, std::uint8_t flags, ScsiTask::Step then) noexcept;
/// Holds [lba, lba + blocks) of task against other writers until the task ends; then `then`.
TaskNext hold_range(UnitState& unit, ScsiTask& task, ScsiTask::Step then) noexcept;
bool take_scratch(UnitState& unit, ScsiTask& task, std::size_t bytes) noexcept;

/// Checks LBA and blocks (into task) against the unit's size; false: the task has ended.
bool take_range(UnitState& unit, ScsiTask& task) noexcept;
/// Refuses protection information, which no unit has; false: the task has ended.
bool no_protection(UnitState& unit, ScsiTask& task) noexcept;
bool writable(UnitState& unit, ScsiTask& task) noexcept;
std::uint8_t write_flags(const UnitState& unit, const ScsiTask& task) noexcept;

/// Goes on after TaskNext::wait, on a thread of the transport.
inline void resume_task(ScsiTask& task) noexcept {
  task.again(task);
}

/// Where a command starts, and whether that only asks for data (so that it may come before the
/// task's turn in the task set).
struct CommandStart {
  ScsiTask::Step step = nullptr;
  bool takes_data = false;
};
CommandStart start_of(scsi::Command command) noexcept;
/// False for what this unit does not have: UNMAP of one that is not thin.
bool has_command(const UnitState& unit, const scsi::CommandInfo& info) noexcept;

// One step starts each command; cmd_*.cpp.
TaskNext start_test_unit_ready(UnitState&, ScsiTask&);
TaskNext start_request_sense(UnitState&, ScsiTask&);
TaskNext start_inquiry(UnitState&, ScsiTask&);
TaskNext start_report_luns(UnitState&, ScsiTask&);
TaskNext start_report_port_groups(UnitState&, ScsiTask&);
TaskNext start_report_opcodes(UnitState&, ScsiTask&);
TaskNext start_report_task_functions(UnitState&, ScsiTask&);
TaskNext start_mode_sense(UnitState&, ScsiTask&);
TaskNext start_mode_select(UnitState&, ScsiTask&);
TaskNext start_read_capacity_10(UnitState&, ScsiTask&);
TaskNext start_read_capacity_16(UnitState&, ScsiTask&);
TaskNext start_get_lba_status(UnitState&, ScsiTask&);
TaskNext start_read_defect_data(UnitState&, ScsiTask&);
TaskNext start_read(UnitState&, ScsiTask&);
TaskNext start_write(UnitState&, ScsiTask&);
TaskNext start_verify(UnitState&, ScsiTask&);
TaskNext start_write_and_verify(UnitState&, ScsiTask&);
TaskNext start_pre_fetch(UnitState&, ScsiTask&);
TaskNext start_synchronize_cache(UnitState&, ScsiTask&);
TaskNext start_write_same(UnitState&, ScsiTask&);
TaskNext start_unmap(UnitState&, ScsiTask&);
TaskNext start_compare_and_write(UnitState&, ScsiTask&);
TaskNext start_or_write(UnitState&, ScsiTask&);
TaskNext start_reserve(UnitState&, ScsiTask&);
TaskNext start_release(UnitState&, ScsiTask&);
TaskNext start_persistent_in(UnitState&, ScsiTask&);
TaskNext start_persistent_out(UnitState&, ScsiTask&);
TaskNext start_extended_copy(UnitState&, ScsiTask&);
TaskNext start_receive_copy_results(UnitState&, ScsiTask&);
TaskNext start_start_stop(UnitState&, ScsiTask&);
TaskNext start_prevent_allow(UnitState&, ScsiTask&);
TaskNext start_sanitize(UnitState&, ScsiTask&);

/// True: a sanitize operation runs or has failed, and the task has ended with that.
bool refused_by_sanitizing(UnitState& unit, ScsiTask& task, scsi::Command command) noexcept;
/// Of one that runs: with its progress.
scsi::Sense sanitizing_sense(const UnitState& unit) noexcept;

}  // namespace blockloom
