#include "server/target/mirror/mirror.hpp"

#include <algorithm>

#include <fmt/format.h>

#include "server/base/fork_point.hpp"
#include "server/base/log.hpp"
#include "server/target/mirror/directory.hpp"
#include "server/target/mirror/mirror_batch.hpp"

namespace blockloom::mirror {
namespace {

// For what has bounds of its own below: copies in flight at a suspend, the last flush at the end.
constexpr Duration quiesce_patience = std::chrono::seconds(30);
constexpr Duration stop_patience = std::chrono::seconds(5);
constexpr Duration record_patience = std::chrono::seconds(20);

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
    if (places_[i].used && places_[i].spec.uri == leg.uri && places_[i].spec.offset == leg.offset)
      return static_cast<int>(i);
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
      worker.detach();
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

// --- Taking over ------------------------------------------------------------------------------

/// The next table's line: what it says differently is done before requests come. Legs leave first,
/// so that a line may replace one by another. The machine goes on for it, since a suspended one
/// writes no record (I10), and who the legs are has to be durable before the first request.
Result<void> Mirror::change_to(const Wanted& wanted) {
  if (to_text(wanted.spec) == to_text(spec_) && !reopened(wanted)) return {};
  go_on();
  if (auto r = drop_legs(wanted); !r) return r;
  if (auto r = add_legs(wanted); !r) return r;
  {
    const std::lock_guard lock(mutex_);
    spec_ = wanted.spec;
    state_->configure(config_of(wanted.spec));
    note_modes_locked();
  }
  if (auto r = change_log(wanted); !r) return r;
  visit(Event::tick(now_ns()), true);
  const auto settled = [this] {
    const RegionLog& log = state_->log();
    return log.completed() >= log.newest();
  };
  // Durable, with the new legs as members; then their identities.
  const TimePoint deadline = Clock::now() + record_patience;
  bool written = wait_for(settled, deadline);
  if (written && name_members()) {
    visit(Event::tick(now_ns()), true);
    written = wait_for(settled, deadline);
  }
  if (written) return {};
  return Error{Errc::timed_out, "mirror: the record of the new legs could not be written"};
}

/// Whether the line brings a leg that was opened anew.
bool Mirror::reopened(const Wanted& wanted) const {
  const std::lock_guard lock(mutex_);
  return std::any_of(wanted.legs.begin(), wanted.legs.end(), [&](const WantedLeg& leg) {
    const int place = place_of(leg.spec);
    return leg.leg != nullptr &&
           (place < 0 || places_[static_cast<unsigned>(place)].leg != leg.leg);
  });
}

Result<void> Mirror::drop_legs(const Wanted& wanted) {
  for (unsigned number = 0; number < max_legs; ++number) {
    Place& place = places_[number];
    if (!place.used) continue;
    const bool stays =
        std::any_of(wanted.legs.begin(), wanted.legs.end(), [&](const WantedLeg& leg) {
          return leg.spec.uri == place.spec.uri && leg.spec.offset == place.spec.offset;
        });
    if (stays) continue;
    const Event event = Event::remove_leg(now_ns(), number);
    {
      const std::lock_guard lock(mutex_);
      if (auto may = state_->may(event); !may)
        return Error{may.code(), fmt::format("mirror: leg '{}' cannot leave: {}", place.spec.uri,
                                             may.error().message)};
    }
    visit(event, true);
    const auto gone = [&] { return state_->leg(number).state == LegState::absent; };
    if (!wait_for(gone, Clock::now() + record_patience))
      return Error{Errc::timed_out, fmt::format("mirror: leg '{}' does not leave: its last writes "
                                                "are still out",
                                                place.spec.uri)};
    if (place.remote != nullptr) place.remote->release();
    const std::lock_guard lock(mutex_);
    client_->set_leg(number, nullptr, {});
    place.used = place.here = place.lane = place.fenced_once = false;
    place.leg.reset();
    place.remote = nullptr;
    place.link.reset();
  }
  return {};
}

Result<void> Mirror::add_legs(const Wanted& wanted) {
  for (const WantedLeg& leg : wanted.legs) {
    int number = place_of(leg.spec);
    const bool fresh = number < 0;
    for (unsigned i = 0; fresh && number < 0 && i < max_legs; ++i)
      if (!places_[i].used) number = static_cast<int>(i);
    if (number < 0) return Error{Errc::limit, "mirror: it has no place for another leg"};
    const auto at = static_cast<unsigned>(number);
    if (fresh && leg.leg == nullptr) return Error{Errc::not_found, leg.missing};
    // One that is there keeps its leg, but for a failed one that was opened anew.
    if (leg.leg == nullptr || (!fresh && places_[at].out > 0)) continue;
    if (auto r = put_leg(at, leg, wanted.spec); !r) return r;
    if (!fresh) continue;
    {
      const std::lock_guard lock(mutex_);
      places_[at].fenced_once = true;  // nobody wrote to it for this mirror
      state_->configure(config_of(wanted.spec));
      if (auto may = state_->may(Event::add_leg(now_ns(), at)); !may) return may;
    }
    visit(Event::add_leg(now_ns(), at), true);
  }
  return {};
}

/// Writes the legs' identities beside their roles; false: nothing had to be written.
bool Mirror::name_members() {
  const std::lock_guard lock(mutex_);
  RegionLog& log = state_->log();
  bool wrote = false;
  for (unsigned i = 0; i < max_legs; ++i) {
    if (!places_[i].used || log.identity().roles[i] != Role::member ||
        log.identity().legs[i] == places_[i].identity)
      continue;
    log.set_role(i, Role::member, places_[i].identity);
    wrote = true;
  }
  return wrote;
}

/// A record that moves is written whole to its new place before the old one is let go.
Result<void> Mirror::change_log(const Wanted& wanted) {
  const bool had = log_store_->durable();
  const bool same =
      had == (wanted.log != nullptr) &&
      (!had || log_store_->leg() == wanted.log || log_store_->leg()->uri() == wanted.log->uri());
  if (same) return {};
  auto store = LogStore::create(wanted.log, Duration::zero());
  if (!store) return store.error();
  if (store.value()->durable()) {
    auto blank = store.value()->blank();
    if (!blank) return blank.error();
    if (!*blank)
      return Error{Errc::exists, fmt::format("mirror: log '{}' is not empty: expected an empty "
                                             "file for a record that moves",
                                             wanted.spec.log_uri)};
  }
  const std::lock_guard lock(mutex_);
  log_store_ = std::move(*store);
  state_->log().rewrite();
  return {};
}

}  // namespace blockloom::mirror
