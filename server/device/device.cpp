#include "server/device/device.hpp"

#include <limits>

#include "server/leg/nowait.hpp"

namespace blockloom {
namespace {

bool modifies(Op op) noexcept {
  return op == Op::write || op == Op::trim || op == Op::zero;
}

IoGate::Mark mark_of(bool writes) noexcept {
  return writes ? IoGate::Mark::yes : IoGate::Mark::no;
}

}  // namespace

Device::Device(std::string name, std::string uuid, std::uint32_t minor, DeviceLimits limits,
               Services services)
    : minor_(minor),
      limits_(limits),
      services_(std::move(services)),
      name_(std::move(name)),
      uuid_(std::move(uuid)) {}

Device::~Device() {
  if (lease_timer_ != 0) services_.timers->cancel(lease_timer_);
  if (queue_timer_ != 0) services_.timers->cancel(queue_timer_);
}

// --- The data path ---------------------------------------------------------------------------

Submit Device::submit(Request& request) noexcept {
  const std::size_t shard = this_thread_shard();
  const bool writes = modifies(request.op);
  if (!gate_.enter(shard, mark_of(writes))) [[unlikely]]
    return queue_or_refuse(request);
  if (writes && ranges_.tracking() && !ranges_.admit(request, shard)) [[unlikely]]
    return Submit::pending;
  request.device = this;
  request.shard = static_cast<std::uint8_t>(shard);
  request.start_ns = IoAccount::start_time();
  request.table_ended = table_ended;
  request.status = check(request);
  if (request.status == Errc::ok && live_->submit(request) == Submit::pending)
    return Submit::pending;
  return finished(request);
}

Errc Device::check(const Request& request) const noexcept {
  if (live_ == nullptr) return Errc::io;
  if (request.op == Op::flush) return Errc::ok;
  if (request.offset.value % sector_size != 0 || request.length.value % sector_size != 0 ||
      request.length.value == 0)
    return Errc::invalid;
  const Bytes size = live_->size();
  if (request.length > size || request.offset > size - request.length) return Errc::out_of_range;
  if (modifies(request.op) && live_->read_only()) return Errc::read_only;
  return Errc::ok;
}

Submit Device::finished(Request& request) noexcept {
  // An answer without a single block would make the frontend ask for ever.
  if (request.op == Op::extents && request.status == Errc::ok &&
      request.extents->covered().value == 0)
    request.status = Errc::io;
  if (request.op == Op::flush && request.status == Errc::ok &&
      owed_flush_.load(std::memory_order_relaxed) != Errc::ok) [[unlikely]]
    request.status = owed_flush_.exchange(Errc::ok);
  if (!would_wait(request.status, request.flags))
    account_.end(request.shard, request.op, request.length, request.status, request.start_ns);
  // Outside the gate before the frontend hears of it: until then it holds the device open.
  if (request.listed) [[unlikely]] {
    ranges_.ended(request);
    gate_.exit(request.shard);
  } else if (modifies(request.op)) {
    gate_.exit(request.shard, IoGate::Mark::yes);
    if (ranges_.draining()) [[unlikely]]
      ranges_.unlisted_gone();
  } else {
    gate_.exit(request.shard);
  }
  return Submit::done;
}

void Device::table_ended(Request& request) noexcept {
  request.device->finished(request);
  request.complete(request);
}

// --- The queue of a suspended device ----------------------------------------------------------

Submit Device::queue_or_refuse(Request& request) noexcept {
  {
    std::lock_guard lock(queue_mutex_);
    const Errc dead = dead_.load();
    if (dead != Errc::ok) {
      request.status = dead;
      return Submit::done;
    }
    // Opening happens under this lock: a gate seen open now stays open to this retry.
    if (gate_.closed()) {
      const std::uint64_t now = now_ns();
      if (request.queued_ns == 0) request.queued_ns = now;
      if (queued_ >= limits_.queue_requests) {
        request.status = Errc::limit;
        return Submit::done;
      }
      request.next_queued = nullptr;
      request.prev_queued = queue_tail_;
      (queue_tail_ != nullptr ? queue_tail_->next_queued : queue_head_) = &request;
      queue_tail_ = &request;
      request.queued = true;
      ++queued_;
      if (!arm_queue_timer_locked()) {
        // Nothing would bound its wait: the first of the queue is refused.
        unlink_locked(request);
        request.status = Errc::no_memory;
        return Submit::done;
      }
      return Submit::pending;
    }
  }
  return submit(request);
}

void Device::open_gate() noexcept {
  Request* request = nullptr;
  TimerId timer = 0;
  {
    std::lock_guard lock(queue_mutex_);
    if (dead_.load() != Errc::ok) return;
    gate_.open();
    request = take_queue_locked();
    timer = std::exchange(queue_timer_, 0);
  }
  if (timer != 0) services_.timers->cancel(timer);
  while (request != nullptr) {
    Request& next = *request;
    request = next.next_queued;
    next.retry(next);
  }
}

void Device::fail_queue(Errc status) noexcept {
  Request* request = nullptr;
  {
    std::lock_guard lock(queue_mutex_);
    request = take_queue_locked();
  }
  while (request != nullptr) {
    Request& next = *request;
    request = next.next_queued;
    next.status = status;
    next.complete(next);
  }
}

void Device::unlink_locked(Request& request) noexcept {
  Request* const next = request.next_queued;
  (request.prev_queued != nullptr ? request.prev_queued->next_queued : queue_head_) = next;
  (next != nullptr ? next->prev_queued : queue_tail_) = request.prev_queued;
  request.queued = false;
  --queued_;
}

bool Device::withdraw(Request& request) noexcept {
  std::lock_guard lock(queue_mutex_);
  if (!request.queued) return false;
  unlink_locked(request);
  request.status = Errc::cancelled;
  return true;
}

Request* Device::take_queue_locked() noexcept {
  queue_tail_ = nullptr;
  queued_ = 0;
  for (Request* request = queue_head_; request != nullptr; request = request->next_queued)
    request->queued = false;
  return std::exchange(queue_head_, nullptr);
}

bool Device::arm_queue_timer_locked() noexcept {
  if (queue_timer_ != 0 || queue_head_ == nullptr) return true;
  std::uint64_t oldest = std::numeric_limits<std::uint64_t>::max();
  for (const Request* r = queue_head_; r != nullptr; r = r->next_queued)
    oldest = std::min(oldest, r->queued_ns);
  const TimePoint when = TimePoint(std::chrono::nanoseconds(oldest)) + limits_.queue_timeout;
  try {
    queue_timer_ = services_.timers->schedule(when, [weak = weak_from_this()](Errc status) {
      if (status != Errc::ok) return;  // the engine stops, and ends the queue itself
      if (const auto device = weak.lock()) device->expire_queue();
    });
  } catch (...) {  // no memory, or no thread for the timers
    return false;
  }
  return true;
}

void Device::expire_queue() {
  Request* expired = nullptr;
  {
    std::lock_guard lock(queue_mutex_);
    queue_timer_ = 0;
    const auto bound = static_cast<std::uint64_t>(
        std::chrono::duration_cast<std::chrono::nanoseconds>(limits_.queue_timeout).count());
    const std::uint64_t now = now_ns();
    for (Request* r = queue_head_; r != nullptr;) {
      Request* next = r->next_queued;
      if (now - r->queued_ns >= bound) {
        unlink_locked(*r);
        r->next_queued = std::exchange(expired, r);
      }
      r = next;
    }
    arm_queue_timer_locked();
  }
  while (expired != nullptr) {
    Request& r = *expired;
    expired = r.next_queued;
    r.status = Errc::timed_out;
    r.complete(r);
  }
}

}  // namespace blockloom
