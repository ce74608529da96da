#include <algorithm>

#include "tests/sim/say.hpp"
#include "tests/sim/world.hpp"

// What a seed means: the mirror, its legs' habits, the clients, what goes wrong and when.
namespace blockloom::sim {

World::World(std::uint64_t seed, bool trace) : seed_(seed), trace_(trace), random_(seed) {}

void World::design() {
  Random& r = random_;
  const unsigned leg_count = r.percent(55) ? 2 : r.percent(70) ? 3 : 4;
  regions_ = static_cast<unsigned>(r.between(1, 5));
  blocks_ = regions_ * blocks_per_region;
  config_.size = std::uint64_t{blocks_} * block_size;
  config_.region_size = blocks_per_region * block_size;
  config_.max_requests = static_cast<std::uint32_t>(r.between(4, 12));
  config_.min_acks = leg_count > 2 && r.percent(15) ? 2 : 1;
  config_.read_policy = static_cast<mirror::ReadPolicy>(r.below(3));
  config_.preferred = static_cast<unsigned>(r.below(leg_count));
  config_.hedge = r.percent(40) ? r.between(1, 10) * ms : 0;
  config_.on_all_failed = r.percent(35) ? mirror::OnAllFailed::queue : mirror::OnAllFailed::error;
  config_.queue_limit = static_cast<std::uint32_t>(r.between(1, 12));
  config_.queue_timeout = 400 * ms;
  config_.log_timeout = 200 * ms;
  config_.clean_delay = r.between(20, 120) * ms;
  config_.assemble_timeout = r.between(50, 200) * ms;
  config_.reopen_min = 10 * ms;
  config_.reopen_max = 80 * ms;
  config_.copy_chunk = block_size * static_cast<std::uint32_t>(r.between(1, 8));
  config_.copies = static_cast<unsigned>(r.between(1, 3));
  config_.resync_rate = r.percent(20) ? r.between(50, 500) << 10 : 0;
  const bool bounded = r.percent(85);
  legs_.resize(leg_count);
  for (SimLeg& leg : legs_) {
    mirror::LegConfig& c = config_.legs.emplace_back();
    leg.local = r.percent(25);
    leg.fence = leg.local || r.percent(70) ? FenceKind::epoch : FenceKind::drain;
    leg.latency = leg.local ? ms / 20 : r.between(1, 30) * ms / 10;
    c.timeout = !leg.local && bounded ? r.between(15, 60) * ms : 0;
    c.read_timeout = r.percent(50) ? c.timeout / 2 : 0;
    c.fence_delay = r.between(0, 40) * ms;
    c.zombie_cap = r.percent(30) ? block_size * r.between(1, 20) : 64U << 20;
  }
  untimed_ = config_.hedge == 0 &&
             std::all_of(config_.legs.begin(), config_.legs.end(),
                         [](const mirror::LegConfig& leg) { return leg.timeout == 0; });
  identity_.size = config_.size;
  identity_.region_size = config_.region_size;
  identity_.mirror.fill(0x42);
  for (unsigned i = 0; i < leg_count; ++i)
    identity_.roles[i] = mirror::Role::member;
  medium_.assign(mirror::RegionLog::bytes_needed(regions_), std::byte{});
  log_latency_ = r.percent(70) ? r.between(1, 40) * ms / 10 : r.between(4, 80) * ms;
  clients_.resize(config_.max_requests);

  // Crashes, or lost caches; both together may lose what was not flushed, and nothing else.
  const std::uint64_t profile = r.below(10);
  crashes_allowed_ = profile < 6;
  power_allowed_ = profile >= 4;
  lossy_ = crashes_allowed_ && power_allowed_;
  to_come_ = static_cast<unsigned>(r.between(10, 70));
  fault_count_ = static_cast<unsigned>(r.below(9));
  at(soon(ms), Kind::boot);
  at(soon(40 * ms), Kind::arrive);
  Time when = now_ + 5 * ms;
  for (unsigned i = 0; i < fault_count_; ++i) {
    when += r.below(60 * ms);
    at(when, Kind::fault);
  }
}

/// The next request of the clients. Few blocks, so that they meet.
void World::arrive() {
  if (to_come_ == 0) {
    at(soon(100 * ms), Kind::heal);
    return;
  }
  const Time pause = random_.percent(60) ? soon(ms) : soon(12 * ms);
  at(pause, Kind::arrive);
  if (!serving_ || suspending_) {
    if (random_.percent(20)) --to_come_;  // a mirror that does not start is no reason to wait
    return;
  }
  const Slot slot = free_client();
  if (slot == config_.max_requests) {
    if (random_.percent(10)) --to_come_;
    return;
  }
  --to_come_;
  Client& c = clients_[slot];
  const std::uint64_t kind = random_.below(100);
  c.kind = kind < 50   ? mirror::Kind::write
           : kind < 54 ? mirror::Kind::trim
           : kind < 58 ? mirror::Kind::zero
           : kind < 67 ? mirror::Kind::flush
                       : mirror::Kind::read;
  if (c.kind == mirror::Kind::flush) {
    say("flush, slot {} request {}", slot, c.number);
    feed(Event::submit(now_, slot, c.kind, 0, 0));
    return;
  }
  const auto region = static_cast<unsigned>(random_.below(regions_));
  const auto in_region = static_cast<unsigned>(
      random_.percent(60) ? random_.below(3) : random_.below(blocks_per_region));
  c.first = region * blocks_per_region + in_region;
  c.count = static_cast<unsigned>(
      random_.between(1, std::min<std::uint64_t>(3, blocks_per_region - in_region)));
  if (c.kind != mirror::Kind::read) {
    c.value = next_value_++;
    for (unsigned b = c.first; b < c.first + c.count; ++b)
      history_[b].write_begins(c.value, now_);
  }
  submit(slot);
}

Slot World::free_client() {
  std::vector<Slot> free;
  for (Slot slot = 0; slot < clients_.size(); ++slot)
    if (!clients_[slot].busy) free.push_back(slot);
  if (free.empty()) return config_.max_requests;
  const Slot slot = free[random_.below(free.size())];
  clients_[slot] = Client{};
  clients_[slot].busy = true;
  clients_[slot].number = next_request_++;
  clients_[slot].begin = now_;
  return slot;
}

void World::submit(Slot slot) {
  const Client c = clients_[slot];
  say("{} slot {} request {} blocks {}+{} value {}",
      c.kind == mirror::Kind::read ? "read" : "write", slot, c.number, c.first, c.count, c.value);
  const std::uint32_t life = life_;
  feed(Event::submit(now_, slot, c.kind, std::uint64_t{c.first} * block_size,
                     std::uint64_t{c.count} * block_size));
  if (life != life_ || clients_[slot].number != c.number) return;
  clients_[slot].alone = state_->region(c.first / blocks_per_region).users == 1;
  if (random_.percent(3)) feed(Event::cancel(now_, slot));
}

/// A read of the block whose write just failed.
void World::look() {
  if (!serving_ || suspending_) return;
  const Slot slot = free_client();
  if (slot == config_.max_requests) return;
  Client& c = clients_[slot];
  c.kind = mirror::Kind::read;
  c.first = look_at_;
  c.count = 1;
  submit(slot);
}

/// Faults are over: whatever was missed has to come back by itself (I9).
void World::heal() {
  healing_ = true;
  crash_after_ = -1;
  log_error_percent_ = 0;
  for (SimLeg& leg : legs_) {
    leg.hung_until = leg.away_until = 0;
    leg.error_percent = leg.mute_percent = 0;
  }
  say("-- everything is whole again");
  at(now_ + 300 * ms, Kind::finish);
}

bool World::converged() const {
  if (!state_ || !serving_ || suspending_) return false;
  const mirror::MirrorView view = state_->view(now_);
  if (view.in_flight != 0 || view.dirty_regions != 0 || view.in_sync_regions != view.regions)
    return false;
  for (unsigned i = 0; i < legs(); ++i)
    if (state_->leg(i).state != mirror::LegState::up || state_->leg(i).outstanding != 0)
      return false;
  return !state_->log().pending() && !state_->log().committing() && !view.scrubbing &&
         std::none_of(clients_.begin(), clients_.end(), [](const Client& c) { return c.busy; });
}

void World::finish() {
  if (stopped_) return;
  require(now_ < 60'000 * ms, "I9: nothing converges although nothing is wrong any more");
  at(now_ + 100 * ms, Kind::finish);
  if (!state_ || !serving_ || quiet_ || suspending_) return;
  if (!converged()) {
    // What only a person can decide.
    feed(Event::resume_resync(now_));
    for (unsigned i = 0; i < legs() && state_; ++i) {
      const mirror::LegState state = state_->leg(i).state;
      if (state == mirror::LegState::down_unfenced) {
        settle_leg(i, true);
        legs_[i].vouched = true;
        feed(Event::vouch_leg(now_, i));
      } else if (state == mirror::LegState::absent) {
        feed(Event::add_leg(now_, i));
      } else if (state_->leg(i).held) {
        feed(Event::readd_leg(now_, i));
      }
    }
    return;
  }
  check_end();
  finishing_ = suspending_ = true;
  feed(Event::suspend(now_));
}

void World::happen(const Item& item) {
  switch (item.kind) {
    case Kind::land:
      return land(item.a);
    case Kind::reply:
      return reply(item.a);
    case Kind::arrive:
      return arrive();
    case Kind::fault:
      return fault();
    case Kind::heal:
      return heal();
    case Kind::log_done:
      return log_done();
    case Kind::fence_done:
      return fence_done(item.a);
    case Kind::open_done:
      return open_done(item.a);
    case Kind::tick:
      if (tick_at_ == item.at) tick_at_ = ~Time{0};
      return feed(Event::tick(now_));
    case Kind::boot:
      return boot(life_ == 0);
    case Kind::start_again:
      for (unsigned i = 0; i < legs(); ++i) {
        if (state_->leg(i).state != mirror::LegState::down_unfenced) continue;
        const std::uint32_t life = life_;
        settle_leg(i, true);
        legs_[i].vouched = true;
        feed(Event::vouch_leg(now_, i));
        if (life != life_) return;
      }
      return feed(Event::start(now_));
    case Kind::look:
      return look();
    case Kind::crash:
      if (state_ && !healing_) crash();
      return;
    case Kind::all_ok:
      return all_ok(item.a);
    case Kind::compared:
      return feed(Event::compared(now_, scrub_slot(), static_cast<LegMask>(item.a)));
    case Kind::lost:
      return lost(item.a);
    case Kind::suspend:
      return;
    case Kind::resume:
      quiet_ = suspending_ = false;
      return feed(Event::resume(now_));
    case Kind::finish:
      return finish();
  }
}

Verdict World::run() {
  design();
  try {
    std::uint64_t steps = 0;
    while (!queue_.empty() && !stopped_) {
      const Item item = queue_.top();
      queue_.pop();
      now_ = std::max(now_, item.at);
      if (of_engine(item.kind) && item.life != life_) continue;
      happen(item);
      require(++steps < 200'000, "I9: it never ends");
    }
    require(stopped_, "I9: it does not come to an end");
    check_closed();
    for (unsigned i = 0; i < legs(); ++i)
      verdict_.zombies += state_->leg(i).timeouts;
  } catch (const Violation& violation) {
    say("VIOLATION {}", violation.what);
    verdict_.what = violation.what;
  }
  return verdict_;
}

}  // namespace blockloom::sim
