#include <algorithm>

#include "server/target/mirror/machine.hpp"

// Flush (F2), and the lazy cleaning of the dirty bits (F1).
namespace blockloom::mirror {
namespace {
constexpr unsigned clean_batch = 4096;  // regions a visit
}

/// Flushes are numbered by their start. A region's `stamp` is the number of the first flush that
/// began after its newest write had ended: a leg whose `flushed` is not below it has that write
/// safe.
void State::Machine::start_flush(Slot slot) {
  Request& r = requests_[slot];
  r.step = Step::active;
  r.kind = Kind::flush;
  r.offset = r.length = r.region = 0;
  r.pending = r.ok = 0;
  r.lost = false;
  for (unsigned i = 0; i < legs_.size(); ++i) {
    if ((up_ & leg_bit(i)) != 0 && !has_room(i)) leg_out(i, Why::timeout, Errc::limit);
    // What only a leg that is down holds cannot be flushed now.
    if ((present_ & ~up_ & leg_bit(i)) != 0 && legs_[i].kept_unflushed && r.use == Use::user)
      return no_leg(slot);
  }
  if (up_ == 0) return no_leg(slot);
  ++r.serial;
  r.number = next_flush_++;
  LegMask targets = up_;
  if (removed(Rule::f2)) targets = leg_bit(first_leg(up_));
  for (LegMask rest = targets; rest != 0; rest &= static_cast<LegMask>(rest - 1))
    send(slot, first_leg(rest), Kind::flush, false);
}

void State::Machine::advance_flush(Slot slot) {
  Request& r = requests_[slot];
  if (r.use == Use::flush) return answer(slot, Errc::ok);
  if (r.ok == 0) {
    if (r.lost && config_.on_all_failed == OnAllFailed::queue) return no_leg(slot);
    return answer(slot, r.errc == Errc::ok ? Errc::io : r.errc);
  }
  for (const Leg& leg : legs_)
    if (leg.state != LegState::absent && leg.kept_unflushed)
      return answer(slot, r.errc == Errc::ok ? Errc::io : r.errc);
  // F2: each is ok, or durably STALE where it is not flushed.
  if (stale_ticket_ > log_.completed() && !removed(Rule::w6))
    return wait_for_log(slot, Step::settling);
  answer(slot, Errc::ok);
}

void State::Machine::flush_failed(unsigned leg, std::uint32_t index, Fail how, Errc errc) {
  const LegMask bit = leg_bit(leg);
  const Slot slot = legs_[leg].ops[index].slot;
  if (how == Fail::time) {
    abandon(leg, index);
  } else {
    requests_[slot].pending &= static_cast<LegMask>(~bit);
    retire(leg, index);
    free_op(leg, index);
  }
  push_work(slot);
  if (how == Fail::time)
    leg_out(leg, Why::timeout, errc);
  else if (how == Fail::lost)
    leg_out(leg, Why::lost, errc);
  else if ((up_ & ~bit) != 0)
    leg_out(leg, Why::error, errc);  // makes its unflushed regions STALE (F1)
}

/// What goes on beside requests, whenever something that it waits for may have changed.
void State::Machine::maintain() {
  if (phase_ != Phase::serving) return stop_step();
  settle_copied();
  if (suspending_) return quiesce();
  start_copies();
  scrub_next();
  if (now_ >= clean_at_) clean_pass();
  if (clean_at_ != never) arm(clean_at_);
  want_flush();
  clean_some();
}

/// One flush of the machine's own at a time, for cleaning and for copies alike.
void State::Machine::want_flush() {
  if (!flush_wanted_ || requests_[flush_slot_].step != Step::free || up_ == 0) return;
  flush_wanted_ = false;
  start_flush(flush_slot_);
}

/// F1, lazily: a region goes clean one to two delays after its last write.
void State::Machine::clean_pass() {
  clean_before_ = clean_mark_;
  clean_mark_ = next_flush_++;
  clean_at_ = log_.dirty_count() != 0 ? now_ + config_.clean_delay : never;
  clean_cursor_ = 0;
  if (log_.dirty_count() != 0 && !removed(Rule::f1)) flush_wanted_ = true;
}

bool State::Machine::cleanable(const Region& g) const noexcept {
  if (g.users != 0 || g.zombies != 0 || g.clearing != 0 || !stale_durable(g)) return false;
  if (removed(Rule::f1)) return true;
  const auto holders = static_cast<LegMask>((present_ & ~g.stale) | g.copying);
  for (LegMask rest = holders; rest != 0; rest &= static_cast<LegMask>(rest - 1))
    if (legs_[first_leg(rest)].flushed < g.stamp) return false;
  return true;
}

void State::Machine::clean_some() {
  if (clean_cursor_ >= log_.regions()) return;
  if (flush_wanted_ || requests_[flush_slot_].step != Step::free) return;
  std::uint64_t r = clean_cursor_;
  for (unsigned n = 0; n < clean_batch; ++n) {
    r = log_.next_dirty(r);
    if (r >= log_.regions()) break;
    Region& g = region(r);
    if (g.stamp <= clean_before_ && cleanable(g)) {
      g.dirty = false;
      log_.set_dirty(r, false);
    }
    ++r;
  }
  clean_cursor_ = r;
  if (r < log_.regions()) arm(now_ + millisecond);
}

}  // namespace blockloom::mirror
