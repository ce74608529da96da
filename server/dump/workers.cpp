#include "server/dump/workers.hpp"

#include <exception>
#include <utility>

#include "server/base/log.hpp"
#include "server/base/thread.hpp"

namespace blockloom::dump {

Workers::Workers(std::string name, std::size_t threads)
    : name_(std::move(name)), thread_count_(threads) {}

Workers::~Workers() {
  stop();
}

void Workers::start() {
  for (std::size_t i = 0; i < thread_count_; ++i)
    threads_.emplace_back([this, i] { run(i); });
}

void Workers::post(const std::shared_ptr<Strand>& strand, Job job) {
  {
    const std::lock_guard lock(mutex_);
    if (stopping_ && threads_.empty()) return;
    strand->jobs_.push_back(std::move(job));
    if (std::exchange(strand->queued_, true)) return;
    ready_.push_back(strand);
  }
  changed_.notify_one();
}

void Workers::stop() {
  {
    const std::lock_guard lock(mutex_);
    stopping_ = true;
  }
  changed_.notify_all();
  for (std::thread& thread : threads_)
    thread.join();
  const std::lock_guard lock(mutex_);
  threads_.clear();
}

void Workers::run(std::size_t number) {
  block_signals();
  set_thread_name(name_ + "-" + std::to_string(number));
  std::unique_lock lock(mutex_);
  for (;;) {
    changed_.wait(lock, [&] { return !ready_.empty() || (stopping_ && running_ == 0); });
    if (ready_.empty()) break;
    const std::shared_ptr<Strand> strand = std::move(ready_.front());
    ready_.pop_front();
    Job job = std::move(strand->jobs_.front());
    strand->jobs_.pop_front();
    ++running_;
    lock.unlock();
    try {
      job();
    } catch (const std::exception& exception) {
      log_error(std::string("dump: ") + exception.what());  // memory ran out
    }
    job = nullptr;
    lock.lock();
    --running_;
    // The next one waits behind the other strands' turns.
    strand->queued_ = !strand->jobs_.empty();
    if (strand->queued_) {
      ready_.push_back(strand);
      changed_.notify_one();
    }
    if (stopping_ && running_ == 0) changed_.notify_all();
  }
  lock.unlock();
  changed_.notify_all();
}

}  // namespace blockloom::dump
