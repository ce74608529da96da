#include "server/base/timer_queue.hpp"

#include "server/base/leave_alone.hpp"
#include "server/base/thread.hpp"

namespace blockloom {
namespace {

/// On a queue's own thread: set when its callback has stopped the queue, which may be gone then.
thread_local bool stopped_by_callback = false;

}  // namespace

TimerQueue::TimerQueue(std::string thread_name) : thread_name_(std::move(thread_name)) {}

TimerQueue::~TimerQueue() {
  stop();
}

TimerId TimerQueue::schedule(TimePoint when, Callback callback) {
  {
    std::lock_guard lock(mutex_);
    if (!stopping_) {
      // First, because it may throw: then nothing was scheduled.
      if (!thread_.joinable()) thread_ = std::thread([this] { run(); });
      const TimerId id = next_id_++;
      const bool first = entries_.empty() || when < entries_.begin()->first.first;
      entries_.emplace(Key{when, id}, std::move(callback));
      times_.emplace(id, when);
      if (first) changed_.notify_one();
      return id;
    }
  }
  callback(Errc::shutdown);
  return 0;
}

bool TimerQueue::cancel(TimerId id) {
  Callback dead;  // destroyed outside the lock: it may own anything
  std::lock_guard lock(mutex_);
  const auto time = times_.find(id);
  if (time == times_.end()) return false;
  const auto entry = entries_.find(Key{time->second, id});
  dead = std::move(entry->second);
  entries_.erase(entry);
  times_.erase(time);
  return true;
}

void TimerQueue::stop() {
  std::map<Key, Callback> left;
  {
    std::lock_guard lock(mutex_);
    stopping_ = true;
    left.swap(entries_);
    times_.clear();
    changed_.notify_one();
  }
  if (thread_.get_id() == std::this_thread::get_id()) {
    stopped_by_callback = true;
    leave_alone(thread_);
  } else if (thread_.joinable()) {
    thread_.join();
  }
  for (auto& [key, callback] : left)
    callback(Errc::shutdown);
}

std::size_t TimerQueue::waiting() const {
  std::lock_guard lock(mutex_);
  return entries_.size();
}

void TimerQueue::run() {
  set_thread_name(thread_name_);
  block_signals();
  std::unique_lock lock(mutex_);
  while (!stopping_) {
    if (entries_.empty()) {
      changed_.wait(lock);
      continue;
    }
    const auto first = entries_.begin();
    if (const TimePoint when = first->first.first; when > Clock::now()) {
      changed_.wait_until(lock, when);
      continue;
    }
    Callback callback = std::move(first->second);
    times_.erase(first->first.second);
    entries_.erase(first);
    lock.unlock();
    callback(Errc::ok);
    callback = nullptr;
    if (stopped_by_callback) return;
    lock.lock();
  }
}

}  // namespace blockloom
