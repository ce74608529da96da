#pragma once

#include <array>
#include <atomic>
#include <cstddef>
#include <cstdint>
#include <memory>

#include "proto/scsi/status.hpp"
#include "server/device/range_lock.hpp"
#include "server/device/request.hpp"
#include "server/iscsi/data_buffer.hpp"

namespace blockloom {

class LogicalUnit;
class Nexus;
struct NexusLun;
struct UnitState;
enum class TaskNext : std::uint8_t;
struct ScsiTask;
struct TaskManagement;

/// SAM-5 8.6, with iSCSI's numbers (RFC 7143 11.3.1).
enum class TaskAttribute : std::uint8_t {
  untagged = 0,
  simple = 1,
  ordered = 2,
  head_of_queue = 3,
  aca = 4,
};

/// What a call did with a task.
enum class TaskStep : std::uint8_t {
  /// The task is over: its results are set, `complete` will not run.
  ended,
  /// Only from begin(): the command wants `data_out_wanted` bytes in `data`; then proceed().
  wants_data,
  /// One of `complete` and `again` runs once, perhaps before the call returned, on any thread.
  running,
};

/// How a transfer differed from what the initiator expected (RFC 7143 11.4.5).
struct Residual {
  enum class Kind : std::uint8_t { none, underflow, overflow } kind = Kind::none;
  std::uint32_t count = 0;
};

/// One SCSI command on its way through a logical unit. The transport makes it, keeps it alive and
/// in place until it has ended, and reuses it after reset().
///
///   begin() ── ended ───────────────────────────────────────────► send the response
///      │ └──── wants_data ─ receive, or abandon() ─ proceed() ─┐
///      └────── running ◄───────────────────────────────────────┘
///                 ├─ again(task): on a thread of your own choice, soon, call run_again(task),
///                 │               which returns ended or running
///                 └─ complete(task): send the response, or none if `aborted`
///
/// Calls go through the task's nexus (scsi_target.hpp). begin() is called in the order of CmdSN;
/// immediate commands at once. An aborted task ends like any other, with `aborted` set.
struct ScsiTask {
  // --- set by the transport before begin() --------------------------------------------------
  Nexus* nexus = nullptr;
  std::array<std::uint8_t, 16> cdb{};  ///< padded with zeroes
  std::uint64_t lun = 0;               ///< the PDU's eight bytes, big-endian (SAM-5 4.7)
  TaskAttribute attribute = TaskAttribute::simple;
  /// Expected Data Transfer Length, in the direction of the R or the W bit; 0 in the other. With
  /// both bits and no bidirectional AHS, expected_out counts.
  std::uint32_t expected_in = 0;
  std::uint32_t expected_out = 0;

  /// The task is over. Any thread, so it posts; the results below are set. Never throws.
  void (*complete)(ScsiTask&) noexcept = nullptr;
  /// The task can go on, on a thread that the transport chooses: a device was resumed, or a long
  /// command gave way to others. Posts; run_again() may not be called from inside.
  void (*again)(ScsiTask&) noexcept = nullptr;
  /// Only between wants_data and proceed(), at most once, on any thread: the task was aborted.
  /// Runs under a lock, so it only posts; when nothing will write to `data` any more the transport
  /// calls abandon(), and task management waits for that. proceed() instead of abandon() is right
  /// as well, and returns ended.
  void (*stop)(ScsiTask&) noexcept = nullptr;
  void* owner = nullptr;  ///< the transport's

  // --- data ---------------------------------------------------------------------------------
  /// wants_data: has room for data_out_wanted bytes; the transport fills it, in any order,
  /// unsolicited data included, and drops what the initiator sends beyond. When the task has
  /// ended: data_in_length bytes for the initiator. Kept until reset().
  DataBuffer data;
  /// At most expected_out. Less: the rest is not solicited, and is a residual.
  std::uint32_t data_out_wanted = 0;

  // --- results, valid once the task has ended -------------------------------------------------
  bool aborted = false;  ///< no response is sent (SAM-5 7.2; the TAS bit is 0)
  /// `stop` was called: where proceed() or abandon() crossed with it, what it posted is still on
  /// its way, and the task is not reused before that has arrived.
  bool stop_told = false;
  scsi::Status status = scsi::Status::good;
  std::uint32_t data_in_length = 0;  ///< at most expected_in; send it whatever the status is
  std::uint8_t sense_length = 0;     ///< 0, or the sense data's of a CHECK CONDITION
  std::array<std::uint8_t, 64> sense{};
  /// SPDTL of RFC 7143 11.4.5: what the command would have moved, had the initiator expected
  /// enough.
  std::uint64_t presented = 0;

  /// Of the only direction that the command has.
  Residual residual() const noexcept {
    const std::uint64_t expected = expected_out != 0 ? expected_out : expected_in;
    if (presented == expected) return {};
    const bool over = presented > expected;
    const std::uint64_t count = over ? presented - expected : expected - presented;
    return {over ? Residual::Kind::overflow : Residual::Kind::underflow,
            static_cast<std::uint32_t>(count < UINT32_MAX ? count : UINT32_MAX)};
  }

  /// Ready for another command, and without its buffer. The transport's own fields stay.
  void reset() noexcept;

  // --- the logical unit's, while it has the task ----------------------------------------------
  enum class Phase : std::uint8_t { idle, waiting_data, stopping, running, ended };
  using Step = TaskNext (*)(UnitState&, ScsiTask&);

  std::atomic<Phase> phase{Phase::idle};
  std::atomic<bool> abort_asked{false};
  bool enabled = false;   // its turn in the task set has come
  bool blocked = false;   // it waits for that, with nothing else under way
  bool resubmit = false;  // the device told the request to come again
  bool holding = false;   // `hold` is held
  std::uint64_t sequence = 0;
  std::shared_ptr<NexusLun> path;
  ScsiTask *next_task = nullptr, *prev_task = nullptr;  // in the task set, oldest first
  ScsiTask* next_slow = nullptr;                        // in the slow lane's queue
  Step next = nullptr;                                  // where the command goes on
  Request request;                                      // of the step under way
  std::atomic<Device*> device{nullptr};                 // where it goes
  RangeHold hold;
  std::uint64_t lba = 0, blocks = 0, position = 0;
  std::uint32_t flags = 0;
  DataBuffer scratch;                       // what is compared with, or copied through
  std::unique_ptr<struct TaskExtra> extra;  // of rare commands

  ScsiTask();
  ~ScsiTask();
  ScsiTask(const ScsiTask&) = delete;
  ScsiTask& operator=(const ScsiTask&) = delete;
};

/// SAM-5 chapter 7, with iSCSI's numbers (RFC 7143 11.5.1); the last is the transport's own.
enum class TaskFunction : std::uint8_t {
  abort_task = 1,
  abort_task_set = 2,
  clear_aca = 3,
  clear_task_set = 4,
  logical_unit_reset = 5,
  target_warm_reset = 6,
  target_cold_reset = 7,
  nexus_loss = 128,  ///< the session is over: its tasks end, its RESERVE(6), its state
};

/// RFC 7143 11.6.1.
enum class TaskResponse : std::uint8_t {
  complete = 0,
  no_task = 1,
  no_lun = 2,
  not_supported = 5,
  rejected = 255,
};

/// A task management function. The transport keeps it alive until it has ended: when every task
/// that it aborted, of whatever session, has ended, and not before. Answers of tasks that ended
/// normally were handed over by then, so that the transport sends them first.
struct TaskManagement {
  // Set by the transport.
  TaskFunction function = TaskFunction::abort_task;
  std::uint64_t lun = 0;     ///< not used by the target resets and nexus_loss
  ScsiTask* task = nullptr;  ///< abort_task: the nexus's own; it may have ended a moment ago
  /// Runs once if manage() returned pending, on any thread; it posts.
  void (*complete)(TaskManagement&) noexcept = nullptr;
  void* owner = nullptr;

  TaskResponse response = TaskResponse::complete;  ///< when it has ended

  // The logical unit's.
  std::atomic<std::uint32_t> left{0};
  TaskManagement* next_done = nullptr;
};

}  // namespace blockloom
