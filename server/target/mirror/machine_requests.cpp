#include <algorithm>

#include "server/target/mirror/machine.hpp"

// Requests: the interval lock, writes, reads, and how they wait and are answered.
namespace blockloom::mirror {
namespace {

bool conflict(const Request& a, const Request& b) noexcept {
  if (removed(Rule::w1)) return false;
  if (removed(Rule::r2) && (a.kind == Kind::read || b.kind == Kind::read)) return false;
  if (removed(Rule::c2) && (a.use == Use::copy || b.use == Use::copy)) return false;
  return (a.writes() || b.writes()) && a.offset < b.offset + b.length &&
         b.offset < a.offset + a.length;
}

}  // namespace

void State::Machine::submit(const Event& event) {
  const Slot slot = event.slot;
  assert(slot < config_.max_requests);
  Request& r = requests_[slot];
  assert(r.step == Step::free);
  assert(phase_ == Phase::serving && !suspending_);
  r.kind = event.kind;
  r.flags = event.flags;
  r.offset = event.offset;
  r.length = event.length;
  r.region = event.offset >> shift_;
  r.pending = r.ok = r.tried = r.locking = 0;
  r.errc = Errc::ok;
  r.lost = r.hedged = false;
  r.leg_deadline = 0;
  ++r.serial;
  ++in_flight_;
  pace_.foreground(now_);
  if (r.kind == Kind::flush) return start_flush(slot);
  assert(r.length > 0 && r.offset + r.length <= region_end(r.region));
  if (lock(slot)) begin(slot);
}

// W1: the requests of a region stand in order of arrival in one bucket; a request begins when no
// earlier one that overlaps it is left.
bool State::Machine::lock(Slot slot) {
  Request& r = requests_[slot];
  LockList& bucket = buckets_[r.region & (buckets_.size() - 1)];
  r.blockers = 0;
  for (Slot other = bucket.head(); other != nil; other = requests_[other].lock_link.next)
    if (requests_[other].region == r.region && conflict(requests_[other], r)) ++r.blockers;
  bucket.push_back(requests_, slot);
  r.locks = true;
  ++region(r.region).users;
  r.step = Step::blocked;
  if (r.blockers == 0) return true;
  if (r.use == Use::user && (block_limit_ != never || r.leg_deadline != 0)) {
    r.timed = true;
    wait_until(r, block_limit_);
    limit_by_leg(r);
    blocked_.push_back(requests_, slot);
    arm(std::max(r.deadline, now_));
  }
  return false;
}

void State::Machine::unlock(Slot slot) {
  Request& r = requests_[slot];
  r.locks = false;
  --region(r.region).users;
  LockList& bucket = buckets_[r.region & (buckets_.size() - 1)];
  for (Slot later = r.lock_link.next; later != nil; later = requests_[later].lock_link.next) {
    Request& other = requests_[later];
    if (other.region != r.region || !conflict(r, other)) continue;
    if (--other.blockers == 0) push_work(later);
  }
  bucket.erase(requests_, slot);
}

void State::Machine::begin(Slot slot) {
  Request& r = requests_[slot];
  stop_waiting(slot);
  r.step = Step::active;
  if (r.use == Use::copy) return copy_granted(slot);
  if (r.use == Use::scrub) return scrub_granted(slot);
  if (r.kind == Kind::read) return start_read(slot);
  start_write(slot);
}

void State::Machine::start_write(Slot slot) {
  Request& r = requests_[slot];
  Region& g = region(r.region);
  for (LegMask full = up_; full != 0; full &= static_cast<LegMask>(full - 1))
    if (!has_room(first_leg(full))) leg_out(first_leg(full), Why::timeout, Errc::limit);
  // W4: the legs that are up and in sync here, with no op of unknown end.
  auto targets = static_cast<LegMask>(up_ & ~g.stale & ~barred(g));
  if (count(targets) < config_.min_acks) return no_leg(slot);
  const auto left_out = static_cast<LegMask>(present_ & ~targets & ~g.stale);
  if (left_out != 0 && !removed(Rule::w4)) set_stale(r.region, left_out);
  // W3, in one commit with the others that wait for one.
  if (!g.dirty) set_dirty(r.region);
  if (!dirty_durable(g) && !removed(Rule::w3)) return wait_for_log(slot, Step::marking);
  // A leg that is being copied to gets what changes meanwhile (H9); it does not count.
  if (!removed(Rule::h9)) targets |= static_cast<LegMask>(g.copying & up_);
  r.step = Step::active;
  r.pending = r.ok = 0;
  r.lost = false;
  ++r.serial;
  for (LegMask rest = targets; rest != 0; rest &= static_cast<LegMask>(rest - 1))
    send(slot, first_leg(rest), r.kind, false);
}

/// W6. All its ops have ended, or do not count any more.
void State::Machine::advance_write(Slot slot) {
  Request& r = requests_[slot];
  Region& g = region(r.region);
  const auto good = static_cast<LegMask>(r.ok & present_ & ~g.stale);
  // One that failed as the last, and is not the last any more: its resync ended meanwhile.
  if (const auto missed = static_cast<LegMask>(present_ & ~r.ok & ~g.stale);
      good != 0 && missed != 0 && !removed(Rule::w4) && !removed(Rule::w5))
    set_stale(r.region, missed);
  // Failed on every leg in sync; one that is being copied to may have it nevertheless, in a chunk
  // that will not be copied again.
  if (good == 0 && !removed(Rule::h9)) stop_copying(r.region, g.copying);
  if (count(good) < std::max(1U, config_.min_acks)) {
    if (r.lost && config_.on_all_failed == OnAllFailed::queue) return no_leg(slot);
    return answer(slot, r.errc == Errc::ok ? Errc::io : r.errc);
  }
  if (!stale_durable(g) && !removed(Rule::w6)) return wait_for_log(slot, Step::settling);
  if ((present_ & ~r.ok) != 0) ++degraded_writes_;
  answer(slot, Errc::ok);
}

LegMask State::Machine::readable(const Request& r) const noexcept {
  const Region& g = region(r.region);
  const LegMask not_in_sync = removed(Rule::r1) ? LegMask{0} : g.stale;  // R1
  return static_cast<LegMask>(up_ & ~r.tried & ~not_in_sync & ~barred(g));
}

unsigned State::Machine::choose(LegMask candidates) {
  if ((candidates & (candidates - 1)) == 0) return first_leg(candidates);
  if (config_.read_policy == ReadPolicy::preferred)
    return (candidates & leg_bit(config_.preferred)) != 0 ? config_.preferred
                                                          : first_leg(candidates);
  if (config_.read_policy == ReadPolicy::round_robin) {
    do
      round_robin_ = round_robin_ + 1 < legs() ? round_robin_ + 1 : 0;
    while ((candidates & leg_bit(round_robin_)) == 0);
    return round_robin_;
  }
  unsigned best = first_leg(candidates);
  for (LegMask rest = candidates; rest != 0; rest &= static_cast<LegMask>(rest - 1)) {
    const unsigned leg = first_leg(rest);
    if (legs_[leg].outstanding < legs_[best].outstanding) best = leg;
  }
  return best;
}

/// The first leg, or the next one after one that failed.
void State::Machine::start_read(Slot slot) {
  Request& r = requests_[slot];
  if (r.ok != 0) return finish_read(slot);
  LegMask candidates = readable(r);
  for (LegMask rest = candidates; rest != 0; rest &= static_cast<LegMask>(rest - 1))
    if (!has_room(first_leg(rest))) candidates &= static_cast<LegMask>(~leg_bit(first_leg(rest)));
  if (candidates == 0) {
    if (r.errc != Errc::ok && !(r.lost && config_.on_all_failed == OnAllFailed::queue))
      return answer(slot, r.errc);
    return no_leg(slot);
  }
  if (r.tried != 0) ++retried_reads_;
  ++r.serial;
  const unsigned leg = choose(candidates);
  const bool bounded = legs_[leg].config.read_timeout != 0;
  r.step = Step::active;
  send(slot, leg, Kind::read, bounded || config_.hedge != 0 || r.hedged);
  if (config_.hedge != 0 && !r.hedged && (candidates & ~leg_bit(leg)) != 0) {
    r.hedged = r.hedging = true;
    r.hedge_at = now_ + config_.hedge;
    hedges_.push_back(requests_, slot);
    arm(r.hedge_at);
  }
}

/// R4: a second read of what the first leg is slow with.
void State::Machine::hedge(Slot slot) {
  Request& r = requests_[slot];
  hedges_.erase(requests_, slot);
  r.hedging = false;
  if (r.step != Step::active || r.pending == 0) return;
  LegMask candidates = readable(r) & static_cast<LegMask>(~r.pending);
  for (LegMask rest = candidates; rest != 0; rest &= static_cast<LegMask>(rest - 1))
    if (legs_[first_leg(rest)].free_ops.size() <= 2 * std::size_t{slots()})
      candidates &= static_cast<LegMask>(~leg_bit(first_leg(rest)));
  if (candidates == 0) return;
  ++hedged_reads_;
  send(slot, choose(candidates), Kind::read, true);
}

void State::Machine::finish_read(Slot slot) {
  Request& r = requests_[slot];
  const Region& g = region(r.region);
  for (LegMask rest = r.pending; rest != 0; rest &= static_cast<LegMask>(rest - 1))
    abandon(first_leg(rest), r.op[first_leg(rest)], true);
  // R3: what this shows must not be taken back by a restart.
  if (!stale_durable(g) && !removed(Rule::r3)) return wait_for_log(slot, Step::settling);
  answer(slot, Errc::ok);
}

/// No leg can serve it: an error, or a bounded wait. Who waits gives its range back: the copy that
/// brings the missing leg back needs it, and other requests may go. Not while an op of its own may
/// still land there (W5).
void State::Machine::no_leg(Slot slot) {
  Request& r = requests_[slot];
  if (!all_failed_noted_) note(Notice::all_failed, 0, Errc::io, r.offset, r.length);
  all_failed_noted_ = true;
  if (config_.on_all_failed == OnAllFailed::error || waiting_ >= config_.queue_limit ||
      suspending_ || r.use != Use::user)
    return answer(slot, r.errc == Errc::ok ? Errc::io : r.errc);
  r.step = Step::waiting;
  r.timed = true;
  r.tried = 0;
  if (r.leg_deadline == 0) {
    wait_until(r, config_.queue_timeout);
    r.leg_deadline = r.deadline;
  }
  r.deadline = r.leg_deadline;
  ++waiting_;
  leg_waiters_.push_back(requests_, slot);
  arm(std::max(r.deadline, now_));
  if (r.locks && r.locking == 0) unlock(slot);
}

void State::Machine::wait_for_log(Slot slot, Step step) {
  Request& r = requests_[slot];
  r.step = step;
  r.timed = true;
  wait_until(r, config_.log_timeout);
  log_waiters_.push_back(requests_, slot);
  arm(std::max(r.deadline, now_));
}

/// Where the event told no time, now_ may be long ago: the tick that comes at once sets it right.
void State::Machine::wait_until(Request& r, Time limit) {
  r.deadline = timed_ ? now_ + std::min(limit, never - now_) : 0;
  untimed_waiters_ = untimed_waiters_ || !timed_;
}

/// One that waited for a leg, and now for its range again: its time for a leg is for both.
void State::Machine::limit_by_leg(Request& r) {
  if (r.leg_deadline != 0 && r.deadline != 0) r.deadline = std::min(r.deadline, r.leg_deadline);
}

void State::Machine::time_waiters() {
  untimed_waiters_ = false;
  for (Slot slot = blocked_.head(); slot != nil; slot = requests_[slot].wait_link.next) {
    Request& r = requests_[slot];
    if (r.deadline == 0) r.deadline = now_ + std::min(block_limit_, never - now_);
    limit_by_leg(r);
  }
  for (Slot slot = log_waiters_.head(); slot != nil; slot = requests_[slot].wait_link.next)
    if (requests_[slot].deadline == 0) requests_[slot].deadline = now_ + config_.log_timeout;
  for (Slot slot = leg_waiters_.head(); slot != nil; slot = requests_[slot].wait_link.next) {
    Request& r = requests_[slot];
    if (r.deadline == 0) r.deadline = r.leg_deadline = now_ + config_.queue_timeout;
  }
}

void State::Machine::stop_waiting(Slot slot) {
  Request& r = requests_[slot];
  if (!r.timed) return;
  r.timed = false;
  if (r.step == Step::waiting) {
    --waiting_;
    leg_waiters_.erase(requests_, slot);
  } else {
    (r.step == Step::blocked ? blocked_ : log_waiters_).erase(requests_, slot);
  }
}

void State::Machine::give_up_waiting(Slot slot, Errc errc) {
  stop_waiting(slot);
  requests_[slot].step = Step::active;
  answer(slot, errc);
}

/// A leg came up, or a region of one is in sync again: everyone who can go on tries again, in
/// order, and takes its range again first.
void State::Machine::wake_leg_waiters() {
  WaitList woken = leg_waiters_;
  leg_waiters_ = WaitList();
  while (!woken.empty()) {
    const Slot slot = woken.head();
    Request& r = requests_[slot];
    woken.erase(requests_, slot);
    if (!may_go_on(r)) {
      leg_waiters_.push_back(requests_, slot);
      continue;
    }
    r.timed = false;
    --waiting_;
    r.step = Step::active;
    r.errc = Errc::ok;
    if (r.kind == Kind::flush)
      start_flush(slot);
    else if (r.locks || lock(slot))
      begin(slot);
  }
  if (waiting_ == 0) all_failed_noted_ = false;
}

bool State::Machine::may_go_on(const Request& r) const noexcept {
  if (r.kind == Kind::flush) return up_ != 0;
  const Region& g = region(r.region);
  const auto legs = static_cast<LegMask>(up_ & ~g.stale & ~barred(g));
  return count(legs) >= (r.kind == Kind::read ? 1 : std::max(1U, config_.min_acks));
}

void State::Machine::answer(Slot slot, Errc errc) {
  Request& r = requests_[slot];
  if (r.use == Use::flush) {
    r.step = Step::free;
    kick_ = true;
    return;
  }
  for (LegMask rest = r.pending; rest != 0; rest &= static_cast<LegMask>(rest - 1))
    abandon(first_leg(rest), r.op[first_leg(rest)], true);
  if (r.hedging) {
    r.hedging = false;
    hedges_.erase(requests_, slot);
  }
  Action& action = act(Action::Type::answer);
  action.slot = slot;
  action.kind = r.kind;
  action.errc = errc;
  if (r.kind == Kind::read && r.ok != 0) {
    action.op = r.winner;
    action.leg = r.winner.leg;
    free_op(r.winner.leg, r.winner.index);
    r.ok = 0;
  }
  --in_flight_;
  // W5: the op may still land, and here no STALE says so. Until that is over nothing else may
  // touch the range.
  action.keep = r.locking != 0;
  if (action.keep)
    r.step = Step::locked;
  else
    release(slot);
  if (suspending_) kick_ = true;
}

void State::Machine::release(Slot slot) {
  Request& r = requests_[slot];
  if (r.locks) unlock(slot);
  r.step = Step::free;
}

/// The short way when a request's ops ended in the caller's thread.
void State::Machine::all_ok(Slot slot, std::uint64_t serial) {
  Request& r = requests_[slot];
  // Another request's by now: its ops became zombies, and a fence will resolve them.
  if (r.serial != serial) return;
  for (LegMask rest = r.locking; rest != 0; rest &= static_cast<LegMask>(rest - 1))
    resolve(first_leg(rest), r.op[first_leg(rest)]);
  if (r.step != Step::active) return;
  while (r.pending != 0)
    op_ok(slot, first_leg(r.pending));
  work(slot);
}

void State::Machine::cancel(Slot slot) {
  Request& r = requests_[slot];
  if (r.step != Step::blocked && r.step != Step::marking && r.step != Step::waiting) return;
  stop_waiting(slot);
  answer(slot, Errc::cancelled);
}

}  // namespace blockloom::mirror
