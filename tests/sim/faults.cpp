#include <algorithm>

#include "tests/sim/say.hpp"
#include "tests/sim/world.hpp"

// What goes wrong, and who meddles.
namespace blockloom::sim {

void World::cut(unsigned i, bool at_once) {
  SimLeg& leg = legs_[i];
  if (!leg.session || leg.local) return;
  say("-- leg {} loses its session", i);
  leg.session = false;
  if (at_once)
    lost(i);
  else
    at(soon(10 * ms), Kind::lost, i);
}

/// The engine notices: it hears of the session, and of each op in it, in any order.
void World::lost(unsigned i) {
  const std::vector<std::uint32_t> live = legs_[i].live;
  const std::uint32_t life = life_;
  if (random_.percent(50)) feed(Event::leg_lost(now_, i));
  for (const std::uint32_t op : live) {
    if (life != life_) return;
    if (!ops_[op].told && ops_[op].life == life && ops_[op].session == legs_[i].number)
      tell(op, OpEnd::unknown);
  }
  if (life == life_) feed(Event::leg_lost(now_, i));
}

/// A leg loses its cache. Where no crash comes, only when another one has all that it loses: else
/// data that nobody flushed may go, as it may with any disk.
void World::power_loss(unsigned i) {
  SimLeg& leg = legs_[i];
  if (!leg.session || leg.local || !state_) return;
  bool safe = true;
  for (unsigned b = 0; b < blocks_ && safe; ++b) {
    if (leg.cache[b] == leg.durable[b]) continue;
    const mirror::RegionView view = state_->region(b / blocks_per_region);
    bool other = (view.stale & mirror::leg_bit(i)) != 0;
    for (unsigned k = 0; k < legs(); ++k)
      if (k != i && legs_[k].session && (view.stale & mirror::leg_bit(k)) == 0 &&
          state_->leg(k).state == mirror::LegState::up)
        other = true;
    safe = other;
  }
  if (!lossy_ && (!safe || !serving_)) return;
  say("-- leg {} loses its power", i);
  power_lost_ = true;
  leg.cache = leg.durable;
  leg.copied.fill(false);
  const std::vector<std::uint32_t> live = leg.live;
  for (const std::uint32_t index : live) {
    if (ops_[index].landed) continue;
    ops_[index].landed = ops_[index].barred = true;
    if (ops_[index].told || ops_[index].life != life_) forget(index);
  }
  if (lossy_)
    for (unsigned b = 0; b < blocks_; ++b)
      history_[b].lossy(now_);
  // Else the engine knows at once: what it does with the other legs before it knows could make
  // this one the last.
  cut(i, !lossy_);
}

void World::fault() {
  if (healing_) return;
  const auto i = static_cast<unsigned>(random_.below(legs()));
  SimLeg& leg = legs_[i];
  switch (random_.below(12)) {
    case 0:
    case 1:
    case 2:
      leg.hung_until = now_ + random_.between(5, 250) * ms;
      say("-- leg {} hangs", i);
      return;
    case 3:
      return cut(i);
    case 4:
      leg.mute_percent = static_cast<unsigned>(random_.between(10, 80));
      say("-- leg {} loses replies", i);
      return;
    case 5:
      leg.error_percent = static_cast<unsigned>(random_.between(5, 60));
      say("-- leg {} fails", i);
      return;
    case 6:
      leg.away_until = now_ + random_.between(10, 200) * ms;
      return cut(i);
    case 7:
      if (power_allowed_) return power_loss(i);
      return cut(i);
    case 8:
    case 9:
      if (crashes_allowed_ && state_) {
        crash_after_ = static_cast<int>(random_.below(12));  // actions from now
        return;
      }
      leg.hung_until = now_ + random_.between(30, 120) * ms;
      return;
    case 10:
      if (random_.percent(50)) {
        log_error_percent_ = static_cast<unsigned>(random_.between(10, 70));
        return;
      }
      if (state_ && serving_ && !suspending_ && !requests_out()) {
        say("-- suspend");
        suspending_ = true;
        feed(Event::suspend(now_));
      }
      return;
    default:
      return person();
  }
}

/// Someone at the keyboard.
void World::person() {
  if (!state_ || !serving_ || quiet_) return;
  const auto i = static_cast<unsigned>(random_.below(legs()));
  Event event = Event::tick(now_);
  switch (random_.below(8)) {
    case 0:
      event = Event::fail_leg(now_, i);
      break;
    case 1:
      event = Event::readd_leg(now_, i);
      break;
    case 2:
      event = Event::remove_leg(now_, i);
      break;
    case 3:
      event = Event::add_leg(now_, i);
      break;
    case 4:
      event = Event::pause_resync(now_);
      break;
    case 5:
      event = Event::resume_resync(now_);
      break;
    case 6:
      event = Event::start_scrub(
          now_, random_.percent(50) ? mirror::Scrub::check : mirror::Scrub::repair);
      break;
    default:
      if (state_->leg(i).state != mirror::LegState::down_unfenced) return;
      settle_leg(i, true);  // waited until the server was idle, then gives the word
      legs_[i].vouched = true;
      event = Event::vouch_leg(now_, i);
      break;
  }
  if (!state_->may(event)) return;
  say("-- a person: event {} leg {}", static_cast<int>(event.type), i);
  feed(event);
}

}  // namespace blockloom::sim
