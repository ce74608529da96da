#include "server/device/range_lock.hpp"

#include <cassert>
#include <utility>

namespace blockloom {
namespace {

template <class A, class B>
bool overlap(const A& a, const B& b) noexcept {
  return a.offset < b.offset + b.length && b.offset < a.offset + a.length;
}

/// Outside the lock: a holder that has been told may let go of everything.
void tell(RangeHold* granted) noexcept {
  while (granted != nullptr) {
    RangeHold& hold = *granted;
    granted = hold.next_granted;
    hold.granted(hold);
  }
}

}  // namespace

RangeLock::RangeLock(IoGate& gate) : gate_(gate) {}

RangeLock::~RangeLock() {
  assert(writers_ == nullptr && first_ == nullptr);
}

bool RangeLock::admit(Request& request, std::size_t shard) noexcept {
  RangeHold* granted = nullptr;
  bool admitted = true;
  {
    std::lock_guard lock(mutex_);
    gate_.unmark(shard);
    // A holder's own writes wait for nobody: a later hold over them waits for the holder.
    RangeHold* hold = request.hold != nullptr ? nullptr : first_;
    for (; hold != nullptr && admitted; hold = hold->next) {
      if (!overlap(*hold, request)) continue;
      request.next_queued = hold->parked;
      hold->parked = &request;
      admitted = false;
    }
    if (admitted) {
      request.listed = true;
      request.prev_queued = nullptr;
      request.next_queued = writers_;
      if (writers_ != nullptr) writers_->prev_queued = &request;
      writers_ = &request;
    } else {
      gate_.exit(shard);
    }
    if (!drained_.load(std::memory_order_relaxed)) granted = grant_locked();
  }
  tell(granted);
  return admitted;
}

void RangeLock::ended(Request& request) noexcept {
  RangeHold* granted = nullptr;
  {
    std::lock_guard lock(mutex_);
    (request.prev_queued != nullptr ? request.prev_queued->next_queued : writers_) =
        request.next_queued;
    if (request.next_queued != nullptr) request.next_queued->prev_queued = request.prev_queued;
    request.next_queued = request.prev_queued = nullptr;
    request.listed = false;
    granted = grant_locked();
  }
  tell(granted);
}

void RangeLock::unlisted_gone() noexcept {
  RangeHold* granted = nullptr;
  {
    std::lock_guard lock(mutex_);
    granted = grant_locked();
  }
  tell(granted);
}

bool RangeLock::may_start_locked(const RangeHold& hold) noexcept {
  // No writer comes without being listed any more, so that a count of zero stays zero.
  if (!drained_.load(std::memory_order_relaxed)) {
    if (gate_.marked() != 0) return false;
    drained_.store(true, std::memory_order_relaxed);
  }
  for (const RangeHold* older = first_; older != &hold; older = older->next)
    if (overlap(*older, hold)) return false;
  for (const Request* writer = writers_; writer != nullptr; writer = writer->next_queued)
    if (overlap(*writer, hold)) return false;
  return true;
}

RangeHold* RangeLock::grant_locked() noexcept {
  RangeHold* granted = nullptr;
  for (RangeHold* hold = first_; hold != nullptr; hold = hold->next) {
    if (hold->active || !may_start_locked(*hold)) continue;
    hold->active = true;
    hold->next_granted = std::exchange(granted, hold);
  }
  return granted;
}

Submit RangeLock::hold(RangeHold& hold) noexcept {
  // A writer that looks at the flag after this is listed; one that looked before is counted.
  tracking_.store(true, std::memory_order_seq_cst);
  std::lock_guard lock(mutex_);
  hold.parked = nullptr;
  hold.next = nullptr;
  hold.prev = last_;
  (last_ != nullptr ? last_->next : first_) = &hold;
  last_ = &hold;
  hold.active = may_start_locked(hold);
  return hold.active ? Submit::done : Submit::pending;
}

void RangeLock::release(RangeHold& hold) noexcept {
  RangeHold* granted = nullptr;
  Request* parked = nullptr;
  {
    std::lock_guard lock(mutex_);
    (hold.prev != nullptr ? hold.prev->next : first_) = hold.next;
    (hold.next != nullptr ? hold.next->prev : last_) = hold.prev;
    while (hold.parked != nullptr) {  // oldest first again
      Request& request = *hold.parked;
      hold.parked = request.next_queued;
      request.next_queued = std::exchange(parked, &request);
    }
    granted = grant_locked();
  }
  tell(granted);
  while (parked != nullptr) {
    Request& request = *parked;
    parked = request.next_queued;
    request.next_queued = nullptr;
    request.retry(request);
  }
}

}  // namespace blockloom
