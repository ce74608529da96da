#include <condition_variable>

#include <fmt/format.h>
#include <fmt/ranges.h>

#include "server/base/log.hpp"
#include "server/device/device.hpp"

namespace blockloom {
namespace {

double seconds(Duration d) {
  return std::chrono::duration<double>(d).count();
}

/// A flush whose waiter may give up: the last of the two to let go frees it.
struct OwnedFlush {
  Request request;
  std::mutex mutex;
  std::condition_variable ended;
  bool done = false;
  std::shared_ptr<OwnedFlush> self;  // while the table has it
  std::shared_ptr<Device> device;    // lives until its gate was left
};

}  // namespace

// --- Tables -----------------------------------------------------------------------------------

void Device::set_inactive(std::shared_ptr<Table> table) {
  std::shared_ptr<Table> old;  // closes its legs outside the lock
  std::lock_guard lock(control_);
  old = exchange_inactive_held(std::move(table));
}

void Device::clear() {
  set_inactive(nullptr);
}

std::shared_ptr<Table> Device::exchange_inactive_held(std::shared_ptr<Table> table) {
  std::lock_guard lock(names_);
  return std::exchange(inactive_, std::move(table));
}

std::shared_ptr<Table> Device::live_table() const {
  std::lock_guard lock(names_);
  return live_;
}

std::shared_ptr<Table> Device::inactive_table() const {
  std::lock_guard lock(names_);
  return inactive_;
}

// --- Suspend: each step says how it is undone -------------------------------------------------

Result<void> Device::suspend(const SuspendOptions& options) {
  std::lock_guard lock(control_);
  if (auto r = settle_held(options); !r) return r;
  return suspend_held(options);
}

Duration Device::wait_of(const SuspendOptions& options) const noexcept {
  return options.timeout > Duration::zero() ? options.timeout : limits_.suspend_timeout;
}

Result<void> Device::settle_held(const SuspendOptions& options) {
  if (suspended_ || !options.flush || !live_ || dead_.load() != Errc::ok) return {};
  // A target that holds flushes back lets them go only after presuspend.
  for (const Table::Segment& segment : live_->segments())
    if (segment.target->maps_flush() && !segment.target->inline_only()) return {};
  return flush_live(Clock::now() + wait_of(options));
}

Result<void> Device::suspend_held(const SuspendOptions& options) {
  if (dead_.load() != Errc::ok)
    return Error{dead_.load(), fmt::format("device '{}' is being removed", name())};
  if (suspended_) {
    arm_lease(options.lease);
    return {};
  }
  const Duration wait = wait_of(options);
  const TimePoint deadline = Clock::now() + wait;

  // 1. Targets prepare while I/O still flows. Undo: presuspend_undo.
  if (live_) live_->presuspend();
  // 2. New I/O queues from here on. Undo: open the gate and release the queue.
  closed_at_ = Clock::now();
  gate_.close();
  // 3. What is in flight ends, or the deadline passes.
  Result<void> result;
  if (!gate_.wait_idle(deadline)) {
    const auto late = live_ ? live_->late() : std::vector<std::string>{};
    result = Error{Errc::timed_out,
                   fmt::format("device '{}' cannot be suspended: after {} s still in flight: {}",
                               name(), seconds(wait),
                               late.empty() ? "requests that have just ended"
                                            : fmt::format("{}", fmt::join(late, ", ")))};
  } else if (options.flush && live_) {
    // 4. A flush covers only what has ended, so it comes after the wait. The gate counts the
    // flush too, a moment longer than its end: the swap must not overtake that.
    result = flush_live(deadline);
    if (result && !gate_.wait_idle(deadline))
      result = Error{Errc::timed_out, fmt::format("device '{}' cannot be suspended", name())};
  }
  if (!result) {
    if (live_) live_->presuspend_undo();
    open_gate();
    return result;
  }
  // 5. Nothing of the table runs any more.
  if (live_) live_->postsuspend();
  suspended_ = true;
  arm_lease(options.lease);
  return {};
}

Result<void> Device::flush_live(TimePoint deadline) {
  auto flush = std::make_shared<OwnedFlush>();
  Request& request = flush->request;
  request.op = Op::flush;
  request.device = this;
  request.owner = flush.get();
  flush->self = flush;
  flush->device = shared_from_this();
  request.table_ended = [](Request& r) noexcept {
    auto* owner = static_cast<OwnedFlush*>(r.owner);
    const auto self = std::move(owner->self);
    // The kernel tells a lost write once, and told us: a client has to hear of it too.
    if (r.status != Errc::ok) r.device->owed_flush_.store(r.status);
    {
      std::lock_guard lock(owner->mutex);
      owner->done = true;
      owner->ended.notify_all();
    }
    // Inside the gate until now, so that the table waits for a flush that came too late.
    r.device->gate_.exit(r.shard);
  };
  request.shard = static_cast<std::uint8_t>(this_thread_shard());
  gate_.enter_closed(request.shard);
  if (const Errc dead = dead_.load(); dead != Errc::ok) {
    // kill() may have seen the gate empty: the table is no longer ours to use.
    flush->self.reset();
    gate_.exit(request.shard);
    return Error{dead, fmt::format("device '{}' is being removed", name())};
  }
  if (live_->submit(request) == Submit::done) {
    request.table_ended(request);
  } else {
    std::unique_lock lock(flush->mutex);
    if (!flush->ended.wait_until(lock, deadline, [&] { return flush->done; })) {
      return Error{Errc::timed_out,
                   fmt::format("device '{}' cannot be suspended: its flush is still out on {}",
                               name(), fmt::join(live_->late(), ", "))};
    }
  }
  if (request.status == Errc::ok) return {};
  return Error{request.status, fmt::format("device '{}' cannot be suspended: flush failed: {}",
                                           name(), to_string(request.status))};
}

// --- Resume -----------------------------------------------------------------------------------

Result<PauseReport> Device::resume(const SuspendOptions& options) {
  std::shared_ptr<Table> old;  // destroyed last, when clients go on
  std::lock_guard lock(control_);
  const bool swap = inactive_ != nullptr;
  if (!swap && !suspended_) return PauseReport{};
  if (swap) {
    if (!suspended_) {
      if (auto r = settle_held(options); !r) return r.error();
      if (auto r = suspend_held({options.flush, options.timeout, {}}); !r) return r.error();
    }
    if (auto r = preresume_held(); !r) {
      if (auto back = go_on_held(); !back)
        return Error{r.code(), fmt::format("{}; and the old table: {}", r.error().message,
                                           back.error().message)};
      return r.error();
    }
    old = swap_held();
  }
  if (auto r = go_on_held(); !r) return r.error();
  return PauseReport{swap, Clock::now() - closed_at_};
}

Result<void> Device::preresume_held() {
  auto r = inactive_->ready();
  if (r) r = inactive_->preresume();
  if (!r)
    return Error{r.code(), fmt::format("device '{}': the new table cannot start: {}", name(),
                                       r.error().message)};
  return {};
}

std::shared_ptr<Table> Device::swap_held() {
  std::lock_guard lock(names_);
  auto old = std::exchange(live_, std::exchange(inactive_, nullptr));
  live_prepared_ = true;
  size_.store(live_->size().value, std::memory_order_relaxed);
  read_only_.store(live_->read_only(), std::memory_order_relaxed);
  return old;
}

Result<void> Device::go_on_held() {
  if (live_ && !std::exchange(live_prepared_, false))
    if (auto r = live_->preresume(); !r)
      return Error{r.code(),
                   fmt::format("device '{}' stays suspended: {}", name(), r.error().message)};
  if (live_) live_->resume();
  suspended_ = false;
  arm_lease({});
  open_gate();
  return {};
}

// --- The lease --------------------------------------------------------------------------------

void Device::arm_lease(Duration lease) {
  if (lease_timer_ != 0) services_.timers->cancel(std::exchange(lease_timer_, 0));
  ++lease_generation_;
  lease_end_ = TimePoint{};
  if (lease <= Duration::zero()) return;
  const TimePoint when = Clock::now() + lease;
  lease_end_ = when;
  // Resuming may wait for the control lock: not on the thread of the short callbacks.
  auto end = [weak = weak_from_this(), generation = lease_generation_](Errc) {
    if (const auto device = weak.lock()) device->lease_ended(generation);
  };
  lease_timer_ = services_.timers->schedule(when, [worker = services_.worker, end](Errc status) {
    if (status == Errc::ok) worker->schedule(Clock::now(), end);
  });
}

void Device::lease_ended(std::uint64_t generation) {
  std::string detail;
  {
    std::lock_guard lock(control_);
    if (generation != lease_generation_ || !suspended_) return;
    lease_timer_ = 0;
    if (auto r = go_on_held(); !r) detail = r.error().message;
  }
  raise("lease_expired", detail);
}

// --- Removal by force, and the engine's end ---------------------------------------------------

bool Device::kill(Errc status, Duration wait) {
  Errc alive = Errc::ok;
  dead_.compare_exchange_strong(alive, status);
  {
    std::lock_guard lock(queue_mutex_);
    gate_.close();
  }
  fail_queue(status);
  if (const auto table = live_table()) table->release_held(status);
  return gate_.wait_idle(Clock::now() + wait);
}

std::vector<std::shared_ptr<Table>> Device::drop_tables() {
  std::lock_guard lock(control_);
  std::lock_guard names(names_);
  return {std::exchange(live_, nullptr), std::exchange(inactive_, nullptr)};
}

Result<std::string> Device::message(Sectors sector, std::span<const std::string> words) {
  const auto table = live_table();
  if (!table)
    return Error{Errc::not_found,
                 fmt::format("device '{}' has no live table to take a message", name())};
  if (sector >= to_sectors(table->size()))
    return Error{Errc::out_of_range,
                 fmt::format("device '{}' ends before sector {}: it has {}", name(), sector.value,
                             to_sectors(table->size()).value)};
  Target& target = *table->segment_at(to_bytes(sector)).target;
  if (words.size() < 2 || words[0] != "leg") return target.message(words);
  const auto index = parse_number(words[1], "message: leg", 9999);
  if (!index) return index.error();
  if (index.value() >= target.legs().size())
    return Error{Errc::out_of_range,
                 fmt::format("device '{}': target '{}' has {} leg{}, counted from 0: there is no "
                             "leg {}",
                             name(), target.type(), target.legs().size(),
                             target.legs().size() == 1 ? "" : "s", index.value())};
  return target.legs()[index.value()]->message(fmt::format("{}", fmt::join(words.subspan(2), " ")));
}

}  // namespace blockloom
