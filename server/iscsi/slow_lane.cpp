#include "server/iscsi/slow_lane.hpp"

#include <exception>
#include <utility>

#include "server/base/thread.hpp"
#include "server/device/device.hpp"

namespace blockloom {

SlowLane::~SlowLane() {
  {
    const std::lock_guard lock(mutex_);
    stopping_ = true;
  }
  work_.notify_all();
  for (std::thread& thread : threads_)
    thread.join();
}

/// May throw std::bad_alloc, before anything is changed.
void SlowLane::list_locked(const std::shared_ptr<Queue>& queue) {
  if (queue->listed || queue->head == nullptr || queue->running >= most_of_a_unit) return;
  ready_.push_back(queue);
  queue->listed = true;
}

bool SlowLane::push(const std::shared_ptr<Queue>& queue, ScsiTask& task) noexcept {
  const std::lock_guard lock(mutex_);
  Queue& q = *queue;
  const bool first = q.head == nullptr;
  task.next_slow = nullptr;
  (first ? q.head : q.tail->next_slow) = &task;
  try {
    list_locked(queue);
    // A place for a thread that ends its turn and lists the queue again.
    ready_.reserve(ready_.size() + most_threads);
    if (idle_ <= waiting_ && threads_.size() < most_threads) {
      threads_.reserve(most_threads);
      threads_.emplace_back([this] { run(); });
    }
  } catch (const std::exception&) {  // no memory, or no thread
    if (threads_.empty() || !(q.listed || q.running > 0)) {
      if (std::exchange(q.listed, false)) ready_.pop_back();
      (first ? q.head : q.tail->next_slow) = nullptr;
      return false;
    }
  }
  q.tail = &task;
  ++waiting_;
  work_.notify_one();
  return true;
}

void SlowLane::run() noexcept {
  block_signals();
  set_thread_name("bl-scsi-io");
  std::unique_lock lock(mutex_);
  for (;;) {
    if (ready_.empty()) {
      if (stopping_) return;
      ++idle_;
      work_.wait(lock);
      --idle_;
      continue;
    }
    const std::shared_ptr<Queue> queue = ready_.front();
    ready_.erase(ready_.begin());
    queue->listed = false;
    ScsiTask& task = *queue->head;
    queue->head = task.next_slow;
    --waiting_;
    ++queue->running;
    list_locked(queue);
    lock.unlock();
    Request& request = task.request;
    const bool done = task.device.load(std::memory_order_relaxed)->submit(request) == Submit::done;
    lock.lock();
    --queue->running;
    list_locked(queue);
    if (ready_.size() > 1) work_.notify_one();  // one of them is this thread's own next
    lock.unlock();
    if (done) request.complete(request);  // the task may be gone, and its unit
    lock.lock();
  }
}

}  // namespace blockloom
