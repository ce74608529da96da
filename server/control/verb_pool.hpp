#pragma once

#include <condition_variable>
#include <cstddef>
#include <deque>
#include <functional>
#include <mutex>
#include <string>
#include <thread>
#include <vector>

#include "server/base/clock.hpp"

namespace blockloom::control {

/// A few threads that carry jobs which may wait, and a bounded queue before them. Any thread, but
/// for start(), wait_idle() and join(), which are the owner's.
class VerbPool {
 public:
  VerbPool(std::string name, std::size_t threads, std::size_t queue_limit);
  ~VerbPool();  ///< joins
  VerbPool(const VerbPool&) = delete;
  VerbPool& operator=(const VerbPool&) = delete;

  void start();

  /// False when the queue is full or the pool is closed: the job will not run.
  bool submit(std::function<void()> job);

  /// Drops what waits in the queue and takes nothing new; what runs goes on.
  void close();
  /// After close(): true once no job runs, false if the deadline passed first.
  bool wait_idle(TimePoint deadline);
  void join();

 private:
  void run(std::size_t number);

  const std::string name_;
  const std::size_t thread_count_;
  const std::size_t queue_limit_;
  std::mutex mutex_;  // protects what follows
  std::condition_variable changed_;
  std::deque<std::function<void()>> queue_;
  std::size_t running_ = 0;
  bool closed_ = false;
  std::vector<std::thread> threads_;  // the owner's
};

}  // namespace blockloom::control
