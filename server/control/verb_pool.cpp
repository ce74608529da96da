#include "server/control/verb_pool.hpp"

#include <utility>

#include "server/base/thread.hpp"

namespace blockloom::control {

VerbPool::VerbPool(std::string name, std::size_t threads, std::size_t queue_limit)
    : name_(std::move(name)), thread_count_(threads), queue_limit_(queue_limit) {}

VerbPool::~VerbPool() {
  close();
  join();
}

void VerbPool::start() {
  for (std::size_t i = 0; i < thread_count_; ++i)
    threads_.emplace_back([this, i] { run(i); });
}

bool VerbPool::submit(std::function<void()> job) {
  {
    const std::lock_guard lock(mutex_);
    if (closed_ || queue_.size() >= queue_limit_) return false;
    queue_.push_back(std::move(job));
  }
  changed_.notify_one();
  return true;
}

void VerbPool::close() {
  std::deque<std::function<void()>> dropped;
  {
    const std::lock_guard lock(mutex_);
    closed_ = true;
    dropped.swap(queue_);
  }
  changed_.notify_all();
}

bool VerbPool::wait_idle(TimePoint deadline) {
  std::unique_lock lock(mutex_);
  return changed_.wait_until(lock, deadline, [&] { return running_ == 0; });
}

void VerbPool::join() {
  for (std::thread& thread : threads_)
    thread.join();
  threads_.clear();
}

void VerbPool::run(std::size_t number) {
  block_signals();
  set_thread_name(name_ + "-" + std::to_string(number));
  std::unique_lock lock(mutex_);
  for (;;) {
    changed_.wait(lock, [&] { return closed_ || !queue_.empty(); });
    if (closed_) return;
    std::function<void()> job = std::move(queue_.front());
    queue_.pop_front();
    ++running_;
    lock.unlock();
    job();
    job = nullptr;  // what it holds goes before it counts as done
    lock.lock();
    --running_;
    if (closed_ && running_ == 0) changed_.notify_all();
  }
}

}  // namespace blockloom::control
