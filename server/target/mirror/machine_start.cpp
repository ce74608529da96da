#include <fmt/format.h>

#include "server/target/mirror/machine.hpp"

// Restart (B1 to B3), suspend (I10), and an orderly end.
namespace blockloom::mirror {

void State::Machine::start(bool force) {
  if (phase_ != Phase::fresh && phase_ != Phase::refused) return;
  const bool again = phase_ == Phase::refused;
  force_ = force;
  phase_ = Phase::assembling;
  refusal_.clear();
  assemble_until_ = now_ + config_.assemble_timeout;
  arm(assemble_until_);
  if (again) return assemble(force);
  constexpr LegMask all = (1U << max_legs) - 1;
  for (std::uint64_t r = log_.next_stale(all, 0); r < log_.regions();
       r = log_.next_stale(all, r + 1))
    region(r).stale = log_.stale(r);
  for (std::uint64_t r = log_.next_dirty(0); r < log_.regions(); r = log_.next_dirty(r + 1)) {
    region(r).dirty = true;
    region(r).stamp = next_flush_;  // nobody knows what was flushed
  }
  log_.set_closed(false);
  // B1: each leg, with a new epoch, before anything else is asked of it.
  for (unsigned i = 0; i < legs_.size(); ++i)
    if ((present_ & leg_bit(i)) != 0) enter_fencing(i);
  send_fences();
}

/// Goes on once every leg is up, or those that are not had their time.
void State::Machine::assemble(bool waited) {
  if (phase_ != Phase::assembling || choosing_) return;
  const auto missing = static_cast<LegMask>(present_ & ~up_);
  if (missing != 0 && !waited) {
    for (LegMask rest = missing; rest != 0; rest &= static_cast<LegMask>(rest - 1))
      if (legs_[first_leg(rest)].state != LegState::down_unfenced) return;
  }
  if (!config_.record_proven && !force_)
    return refuse(
        "not enough copies of the mirror's record were found to know which is the "
        "newest; bring the others back, or start it with force and lose what only they "
        "tell",
        missing);
  assemble_degraded(up_);
}

/// B3: without the legs that are missing only if others hold all that was acknowledged.
void State::Machine::assemble_degraded(LegMask up) {
  const auto missing = static_cast<LegMask>(present_ & ~up);
  if (up == 0) return refuse("no leg can be used", missing);
  for (std::uint64_t r = log_.next_stale(up, 0); r < log_.regions();
       r = log_.next_stale(up, r + 1)) {
    Region& g = region(r);
    if ((up & ~g.stale) != 0) continue;
    if (!force_ && !removed(Rule::b3)) {
      const unsigned holder = first_leg(static_cast<LegMask>(present_ & ~g.stale));
      return refuse(fmt::format("the newest data of region {} (at byte {}) is on leg {}, which is "
                                "missing; bring it back, or start the mirror with force and lose "
                                "what only it holds",
                                r, r << shift_, holder),
                    missing);
    }
    // By force: an older state counts from now on, and the missing legs are behind it.
    const LegMask chosen = leg_bit(first_leg(up));
    set_stale(r, missing);
    g.stale &= static_cast<LegMask>(~chosen);
    stale_ticket_ = std::max(stale_ticket_, log_.set_stale(r, chosen, false));
    marked(g, stale_ticket_, &Region::stale_pending);
  }
  choose_sources();
}

void State::Machine::refuse(std::string why, LegMask missing) {
  phase_ = Phase::refused;
  refusal_ = std::move(why);
  Action& action = act(Action::Type::started);
  action.errc = Errc::not_found;
  action.mask = missing;
}

/// B2: where writes may have been under way, one leg's version counts from now on.
void State::Machine::choose_sources() {
  for (std::uint64_t r = log_.next_dirty(0); r < log_.regions(); r = log_.next_dirty(r + 1)) {
    const Region& g = region(r);
    const auto in_sync = static_cast<LegMask>(present_ & ~g.stale);
    const auto usable = static_cast<LegMask>(in_sync & up_);
    const auto wanted = static_cast<LegMask>(usable & ~log_.held());
    const LegMask source = leg_bit(first_leg(wanted != 0   ? wanted
                                             : usable != 0 ? usable
                                                           : in_sync));
    const auto others = static_cast<LegMask>(in_sync & ~source);
    if (others != 0 && !removed(Rule::b2)) set_stale(r, others);
  }
  choosing_ = true;
  if (stale_ticket_ <= log_.completed()) serve();
}

void State::Machine::serve() {
  choosing_ = false;
  phase_ = Phase::serving;
  assemble_until_ = never;
  kick_ = true;
  hold_again();
  if (log_.dirty_count() != 0) {
    clean_at_ = now_ + config_.clean_delay;
    arm(clean_at_);
  }
  act(Action::Type::started);
  if (suspending_) kick_ = true;
}

/// Legs that a person failed before the restart took part in it, for what only they may know; now
/// they go out again. One that the others cannot do without stays: it is told so.
void State::Machine::hold_again() {
  for (unsigned i = 0; i < legs_.size(); ++i) {
    if ((log_.held() & leg_bit(i)) == 0) continue;
    if (!may(Event::fail_leg(now_, i))) {
      log_.set_held(i, false);
      note(Notice::leg_needed, i);
      continue;
    }
    legs_[i].held = true;
    if (legs_[i].state == LegState::up) leg_out(i, Why::person, Errc::cancelled);
  }
}

void State::Machine::suspend() {
  suspending_ = true;
  kick_ = true;
  while (!leg_waiters_.empty())
    give_up_waiting(leg_waiters_.head(), Errc::io);
  if (phase_ != Phase::serving) act(Action::Type::quiesced);
}

/// I10: done when nothing that uses the table or its log is left.
void State::Machine::quiesce() {
  flush_wanted_ = false;
  for (unsigned i = 0; i < copies_.size(); ++i) {
    const Slot slot = config_.max_requests + i;
    if (!copies_[i].active) continue;
    if (requests_[slot].step == Step::free || requests_[slot].step == Step::blocked) end_copy(slot);
  }
  if (requests_[scrub_slot_].step == Step::blocked) {
    act(Action::Type::answer).slot = scrub_slot_;
    release(scrub_slot_);
  }
  if (in_flight_ != 0 || !copies_idle() || !copied_.empty()) return;
  if (requests_[scrub_slot_].step != Step::free || requests_[flush_slot_].step != Step::free)
    return;
  if (log_.committing() || (log_.pending() && !log_failing_)) return;
  kick_ = false;
  phase_ = Phase::suspended;
  act(Action::Type::quiesced);
}

void State::Machine::resume() {
  if (!suspending_) return;
  suspending_ = false;
  if (phase_ == Phase::suspended) phase_ = Phase::serving;
  kick_ = true;
  send_fences();
  arm(now_);  // what came due meanwhile
}

void State::Machine::stop() {
  if (stopping_ != Stopping::no) return;
  stopping_ = Stopping::flushing;
  flush_wanted_ = phase_ == Phase::suspended;
  kick_ = true;
}

/// All that can be flushed is flushed and clean; then the record says that it was closed.
void State::Machine::stop_step() {
  if (stopping_ == Stopping::no || phase_ == Phase::stopped) return;
  if (stopping_ == Stopping::flushing) {
    want_flush();
    if (up_ == 0) flush_wanted_ = false;
    if (flush_wanted_ || requests_[flush_slot_].step != Step::free) return;
    if (phase_ == Phase::suspended) {
      for (std::uint64_t r = log_.next_dirty(0); r < log_.regions(); r = log_.next_dirty(r + 1)) {
        if (!cleanable(region(r))) continue;
        region(r).dirty = false;
        log_.set_dirty(r, false);
      }
      // With an op out whose end is unknown (a copy's leaves nothing dirty) the next start has to
      // fence: the record is not closed then.
      bool out = false;
      for (const Leg& leg : legs_)
        out = out || leg.zombies != 0;
      if (log_.dirty_count() == 0 && !out) log_.set_closed(true);
    }
    stopping_ = Stopping::closing;
  }
  if ((log_.pending() || log_.committing()) && !log_failing_ && phase_ != Phase::fresh) return;
  Action& action = act(Action::Type::stopped);
  if (log_failing_) action.errc = Errc::io;
  phase_ = Phase::stopped;
}

}  // namespace blockloom::mirror
