#pragma once

#include <condition_variable>
#include <deque>
#include <functional>
#include <memory>
#include <mutex>
#include <string>
#include <thread>
#include <vector>

namespace blockloom::dump {

/// A few threads for what waits for disks. Jobs of one strand run in order, never two at a time;
/// those of different strands run side by side, and take turns.
class Workers {
 public:
  using Job = std::function<void()>;

  class Strand {
   private:
    friend class Workers;
    std::deque<Job> jobs_;
    bool queued_ = false;
  };

  Workers(std::string name, std::size_t threads);
  ~Workers();  ///< stops
  Workers(const Workers&) = delete;
  Workers& operator=(const Workers&) = delete;

  /// After the fork. Throws std::system_error if threads cannot be had.
  void start();
  /// Any thread. What the jobs hold on to is bounded by whoever posts. After stop(): the job is
  /// dropped.
  void post(const std::shared_ptr<Strand>& strand, Job job);
  /// Carries out what was posted, then ends the threads. Idempotent; the owner's.
  void stop();

 private:
  void run(std::size_t number);

  const std::string name_;
  const std::size_t thread_count_;
  std::mutex mutex_;  // protects what follows, and the strands
  std::condition_variable changed_;
  std::deque<std::shared_ptr<Strand>> ready_;
  std::size_t running_ = 0;
  bool stopping_ = false;
  std::vector<std::thread> threads_;  // the owner's
};

}  // namespace blockloom::dump
