#include "server/target/mirror/mirror.hpp"

#include <algorithm>

#include <fmt/format.h>

#include "server/base/fork_point.hpp"
#include "server/base/leave_alone.hpp"
#include "server/base/log.hpp"
#include "server/target/mirror/directory.hpp"
#include "server/target/mirror/mirror_batch.hpp"

namespace blockloom::mirror {
namespace {

// For what has bounds of its own below: copies in flight at a suspend, the last flush at the end.
constexpr Duration quiesce_patience = std::chrono::seconds(30);
constexpr Duration stop_patience = std::chrono::seconds(5);

}  // namespace

// --- Finding ----------------------------------------------------------------------------------

Result<std::shared_ptr<Mirror>> Mirror::find_or_make(const MirrorSpec& spec, Bytes size) {
  const Bytes region_size = to_bytes(spec.region_size);
  auto mirror = Directory::get().find(spec);
  if (!mirror) return std::make_shared<Mirror>(size, region_size);
  if (mirror->size_ == size && mirror->region_size_ == region_size) return mirror;
  return Error{
      Errc::invalid,
      fmt::format("mirror: its legs or its log belong to a mirror of {} sectors in regions "
                  "of {}, which serves: expected the same, not {} and {}",
                  to_sectors(mirror->size_).value, to_sectors(mirror->region_size_).value,
                  to_sectors(size).value, spec.region_size.value)};
}

Mirror::Mirror(Bytes size, Bytes region_size) : size_(size), region_size_(region_size) {
  timer_.owner = this;
  timer_.fire = [](DeadlineWheel::Node& node) noexcept {
    auto& self = *static_cast<Mirror*>(node.owner);
    self.callbacks_.fetch_add(1);
    // Before the tick can run: it arms the timer anew.
    self.fired_.fetch_add(1);
    {
      const std::lock_guard lock(self.work_mutex_);
      self.tick_due_ = true;
      self.work_there_.notify_one();
    }
    self.ensure_worker();
    self.callbacks_.fetch_sub(1);  // the last touch
  };
}

Mirror::~Mirror() = default;

std::shared_ptr<Leg> Mirror::open_leg_of(const LegSpec& leg) const {
  const std::lock_guard lock(mutex_);
  const int number = place_of(leg);
  if (number < 0 || state_ == nullptr) return nullptr;
  const Place& place = places_[static_cast<unsigned>(number)];
  if (place.leg == nullptr || !place.leg->device_name().empty()) return nullptr;
  if (place.spec.uri != leg.uri) return nullptr;  // another password, say: that has to be tried
  if (place.next != nullptr) return place.next;
  // A peer's leg reconnects by itself. Another that failed is better opened anew.
  if (place.remote != nullptr) return place.leg;
  const LegState state = state_->leg(static_cast<unsigned>(number)).state;
  return state == LegState::up || place.out > 0 ? place.leg : nullptr;
}

std::shared_ptr<Leg> Mirror::open_log(std::string_view uri) const {
  const std::lock_guard lock(mutex_);
  if (log_store_ == nullptr || !log_store_->durable() || spec_.log_uri != uri) return nullptr;
  return log_store_->leg();
}

int Mirror::place_of(const LegSpec& leg) const noexcept {
  for (unsigned i = 0; i < max_legs; ++i)
    if (places_[i].used && same_storage(places_[i].spec, leg)) return static_cast<int>(i);
  return -1;
}

// --- Hooks ------------------------------------------------------------------------------------

Result<void> Mirror::take(const void* owner, const Wanted& wanted) {
  const std::lock_guard control(control_);
  if (owner_ != nullptr && owner_ != owner && live_)
    return Error{Errc::busy, "mirror: it serves in another table: expected that to be suspended"};
  const auto self = shared_from_this();
  if (auto r = Directory::get().claim(self, wanted.spec); !r) return r;
  const bool running = state_ != nullptr && !stopped_;
  const MirrorSpec before = spec_;
  auto taken = running ? change_to(wanted) : start_first(wanted);
  if (!taken) {
    if (!running)
      Directory::get().release(this);
    else if (auto r = Directory::get().claim(self, before); !r)
      log_error(r.error().message);
    return taken;
  }
  owner_ = owner;
  return {};
}

void Mirror::presuspend(const void* owner) noexcept {
  if (owner != owner_) return;
  bool serving = false;
  {
    const std::lock_guard lock(mutex_);
    draining_ = true;
    serving = serving_;
  }
  if (!serving) fail_parked(Errc::io);
  visit(Event::tick(now_ns()), true);
}

void Mirror::presuspend_undo(const void* owner) noexcept {
  if (owner != owner_) return;
  const std::lock_guard lock(mutex_);
  draining_ = false;
}

void Mirror::postsuspend(const void* owner) noexcept {
  const std::lock_guard control(control_);
  if (owner != owner_) return;
  quiesce();
  live_ = false;
}

void Mirror::quiesce() noexcept {
  {
    const std::lock_guard lock(mutex_);
    if (state_ == nullptr || !serving_ || suspended_) return;
    suspended_ = true;
    quiesced_ = false;
  }
  visit(Event::suspend(now_ns()), true);
  if (!wait_for([this] { return quiesced_; }, Clock::now() + quiesce_patience))
    log_warning("mirror: a copy is still out while it is suspended");
}

void Mirror::resume(const void* owner) noexcept {
  const std::lock_guard control(control_);
  if (owner != owner_) return;
  go_on();
  live_ = true;
}

void Mirror::go_on() noexcept {
  bool suspended = false;
  {
    const std::lock_guard lock(mutex_);
    draining_ = false;
    suspended = std::exchange(suspended_, false);
  }
  if (suspended) visit(Event::resume(now_ns()), true);
}

void Mirror::let_go(const void* owner) noexcept {
  const std::lock_guard control(control_);
  if (owner != owner_) return;
  owner_ = nullptr;
  live_ = false;
  stop_all();
  Directory::get().release(this);
}

void Mirror::release_held(Errc status) noexcept {
  std::vector<std::shared_ptr<Leg>> legs;
  {
    const std::lock_guard lock(mutex_);
    draining_ = true;
    for (const Place& place : places_)
      if (place.leg != nullptr) legs.push_back(place.leg);
  }
  fail_parked(status);
  for (const auto& leg : legs) {
    leg->release_held(status);
    if (leg->remote() != nullptr) leg->remote()->abandon({status, "the device is being removed"});
  }
  visit(Event::tick(now_ns()), true);
}

// --- Waiting, and the end ---------------------------------------------------------------------

/// Waits until a condition under the lock holds. Before the process has forked nobody else does
/// the mirror's work, so the waiter does it.
bool Mirror::wait_for(const std::function<bool()>& done_locked, TimePoint deadline) {
  constexpr Duration step = std::chrono::milliseconds(20);
  for (;;) {
    {
      std::unique_lock lock(mutex_);
      if (done_locked()) return true;
      if (Clock::now() >= deadline) return false;
      if (threads_may_start()) {
        // Whoever changes the condition tells; the steps are for what only changes with commits.
        changed_.wait_until(lock, std::min(deadline, Clock::now() + step));
        continue;
      }
    }
    if (work_once()) continue;
    Time due = never;
    {
      const std::lock_guard lock(mutex_);
      due = state_->next_deadline();
    }
    const TimePoint next = Clock::now() + step;
    if (due > now_ns()) std::this_thread::sleep_until(std::min(deadline, next));
    visit(Event::tick(now_ns()), true);
  }
}

void Mirror::stop_all() noexcept {
  bool orderly = false;
  {
    const std::lock_guard lock(mutex_);
    orderly = state_ != nullptr && serving_;
  }
  if (orderly) {
    quiesce();
    visit(Event::stop(now_ns()), true);
    if (!wait_for([this] { return stopped_; }, Clock::now() + stop_patience))
      log_warning("mirror: its record could not be closed; the next start copies what is dirty");
  }
  // From the outside in: no callback of a leg, no notice, no tick, no work.
  for (Place& place : places_)
    if (place.remote != nullptr) place.remote->release();
  std::unique_ptr<State> state;
  {
    const std::lock_guard lock(mutex_);
    state = std::move(state_);
    serving_ = false;
    if (wheel_ != nullptr && armed_ != fired_.load() && wheel_->disarm(timer_)) fired_.fetch_add(1);
  }
  while (armed_ != fired_.load() || callbacks_.load() != 0)
    std::this_thread::yield();  // the timer's callback runs: a few lines
  std::thread worker;
  {
    std::unique_lock lock(work_mutex_);
    stopping_ = true;
    actions_.clear();
    calls_.clear();
    tick_due_ = false;
    work_there_.notify_all();
    worker.swap(worker_);
    // One that hangs in a leg without a timeout cannot be joined; it holds the mirror itself.
    if (worker.joinable() &&
        !work_there_.wait_for(lock, stop_patience, [&] { return worker_ended_; })) {
      leave_alone(worker);
      log_warning("mirror: a leg without a timeout does not answer; its thread is left to itself");
    }
  }
  if (worker.joinable()) worker.join();
  client_.reset();
  fail_parked(Errc::shutdown);
  const std::lock_guard lock(mutex_);
  for (Place& place : places_) {
    place.used = place.here = place.lane = place.fenced_once = false;
    place.leg.reset();
    place.next.reset();
    place.remote = nullptr;
    place.link.reset();
    place.ops.reset();
    place.out = 0;
    place.in_hand.store(0);
    place.fence_waits.store(false);
    place.proof_waits.store(false);
    place.fence = {};
  }
  slots_.clear();
  free_slots_.clear();
  log_store_.reset();
  armed_at_ = never;
  suspended_ = quiesced_ = stopped_ = begun_ = started_ = refused_ = draining_ = false;
  start_result_ = Errc::ok;
  const std::lock_guard work(work_mutex_);
  stopping_ = worker_ended_ = false;
}

}  // namespace blockloom::mirror
