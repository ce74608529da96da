#pragma once

#include <condition_variable>
#include <cstdint>
#include <functional>
#include <map>
#include <mutex>
#include <string>
#include <thread>
#include <utility>

#include "server/base/clock.hpp"
#include "server/base/error.hpp"

namespace blockloom {

using TimerId = std::uint64_t;

/// One thread that runs callbacks when they are due, in the order of their times. The thread
/// starts with the first schedule(), never earlier, so that a process may still fork before.
/// Every member may be called from any thread, also from a callback. There, stop() and the
/// destructor do not wait for the thread: it touches the queue no more, and ends by itself.
class TimerQueue {
 public:
  /// Errc::ok: the time has come. Errc::shutdown: stop() ended it early. Runs exactly once,
  /// unless cancel() took it back.
  using Callback = std::function<void(Errc)>;

  explicit TimerQueue(std::string thread_name);
  ~TimerQueue();
  TimerQueue(const TimerQueue&) = delete;
  TimerQueue& operator=(const TimerQueue&) = delete;

  /// After stop() the callback runs at once, in the caller, with Errc::shutdown; 0 is returned.
  /// Throws (std::system_error, std::bad_alloc) if the thread cannot be started; then nothing is
  /// scheduled.
  TimerId schedule(TimePoint when, Callback callback);

  /// True: the callback will never run. False: it ran, runs now, or never existed.
  bool cancel(TimerId id);

  /// Ends the thread and runs what was still waiting with Errc::shutdown. Idempotent.
  void stop();

  /// How many callbacks wait.
  std::size_t waiting() const;

 private:
  using Key = std::pair<TimePoint, TimerId>;

  void run();

  const std::string thread_name_;
  mutable std::mutex mutex_;  // protects what follows
  std::condition_variable changed_;
  std::map<Key, Callback> entries_;
  std::map<TimerId, TimePoint> times_;
  TimerId next_id_ = 1;
  bool stopping_ = false;
  std::thread thread_;
};

}  // namespace blockloom
