#pragma once

#include <condition_variable>
#include <memory>
#include <mutex>
#include <thread>
#include <vector>

#include "server/iscsi/scsi_task.hpp"

namespace blockloom {

/// Carries requests that may wait for a disk (a cold read, a flush), so that the thread of a
/// session, and all that share it, need not. All units share its threads; one unit keeps at most
/// a share of them busy, so that a disk that hangs holds up no other. What waits is bounded by the
/// commands that sessions may have. Threads ("bl-scsi-io") start as they are needed, and stay. Any
/// thread.
class SlowLane {
 public:
  static constexpr unsigned most_threads = 16;
  static constexpr unsigned most_of_a_unit = 4;

  /// A unit's tasks that wait for a thread; the unit's own.
  class Queue {
    friend class SlowLane;
    ScsiTask *head = nullptr, *tail = nullptr;
    unsigned running = 0;
    bool listed = false;
  };

  SlowLane() = default;
  /// The units are gone, and so are their tasks: joins.
  ~SlowLane();
  SlowLane(const SlowLane&) = delete;
  SlowLane& operator=(const SlowLane&) = delete;

  /// Submits task.request to task.device on another thread, and ends it by request.complete.
  /// False: there is no thread, and none can be started; nothing happened.
  bool push(const std::shared_ptr<Queue>& queue, ScsiTask& task) noexcept;

 private:
  void run() noexcept;
  void list_locked(const std::shared_ptr<Queue>& queue);

  std::mutex mutex_;  // protects what follows, and what is in the queues
  std::condition_variable work_;
  std::vector<std::shared_ptr<Queue>> ready_;  // have a task, and threads of their share; in turn
  std::vector<std::thread> threads_;
  std::size_t waiting_ = 0;  // tasks in all queues
  std::size_t idle_ = 0;
  bool stopping_ = false;
};

}  // namespace blockloom
