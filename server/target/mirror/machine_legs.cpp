#include <algorithm>

#include "server/target/mirror/machine.hpp"

// Legs: out of service, fenced, opened again; what a lost session means for data (S1, S2).
namespace blockloom::mirror {

void State::Machine::set_leg_state(unsigned i, LegState state) {
  legs_[i].state = state;
  note(Notice::leg_state, i, legs_[i].last_error, 0, 0, static_cast<std::uint64_t>(state));
}

/// Takes a leg that is up out of service. Its ops become zombies at once, so that no request
/// waits for it longer than for the first one that noticed.
void State::Machine::leg_out(unsigned i, Why why, Errc errc) {
  Leg& leg = legs_[i];
  if (leg.state != LegState::up) return;
  up_ &= static_cast<LegMask>(~leg_bit(i));
  leg.last_error = errc;
  leg.backoff = now_ - leg.up_since >= config_.reopen_max
                    ? config_.reopen_min
                    : std::min(config_.reopen_max, 2 * leg.backoff);
  set_leg_state(i, why == Why::timeout ? LegState::suspect : LegState::fencing);
  for (std::uint32_t op = 0; op < leg.ops.size(); ++op)
    if (leg.ops[op].state == OpState::pending || leg.ops[op].state == OpState::late)
      leave_op(i, op);
  // What it acknowledged of writes that are not answered yet does not count either: with its
  // session its cache may be gone.
  for (Request& r : requests_) {
    if (r.kind == Kind::read || r.kind == Kind::flush || (r.ok & leg_bit(i)) == 0) continue;
    if (r.step != Step::active && r.step != Step::settling) continue;
    r.ok &= static_cast<LegMask>(~leg_bit(i));
    r.lost = true;
  }
  lose_unflushed(i);
  stop_copying_leg(i);
  kick_ = true;
  if (why != Why::timeout || leg.outstanding == 0 || leg.zombie_bytes > leg.config.zombie_cap)
    return enter_fencing(i);
  leg.suspect_until = now_ + leg.config.fence_delay;
  arm(leg.suspect_until);
}

/// One op of a leg that goes out of service. Those that their requests cannot do without stay,
/// for what the leg may still answer within their hard limit.
void State::Machine::leave_op(unsigned i, std::uint32_t index) {
  const Op& op = legs_[i].ops[index];
  const Slot slot = op.slot;
  Request& r = requests_[slot];
  const LegMask bit = leg_bit(i);
  if (op.kind == Kind::flush) {
    abandon(i, index);
  } else if (op.kind == Kind::read) {
    if (r.use == Use::user && readable(r) == 0) return;
    r.tried |= bit;
    abandon(i, index);
  } else if (r.use == Use::copy) {
    r.pending &= static_cast<LegMask>(~bit);
    make_zombie(i, index, false);
  } else {
    const Region& g = region(r.region);
    if (is_last(g, i)) return;
    set_stale(r.region, bit);
    r.pending &= static_cast<LegMask>(~bit);
    make_zombie(i, index, false);
  }
  push_work(slot);
}

/// S1: what the leg acknowledged and did not flush may be gone with its cache. All of that is in
/// dirty regions (F1).
void State::Machine::lose_unflushed(unsigned i) {
  if (removed(Rule::s1)) return;
  Leg& leg = legs_[i];
  for (std::uint64_t r = log_.next_dirty(0); r < log_.regions(); r = log_.next_dirty(r + 1)) {
    const Region& g = region(r);
    if (g.stamp > leg.flushed) late_unflushed(i, r);
  }
}

/// S1 in one region; also for what a leg acknowledges on its way out. Where only this leg is in
/// sync it stays so, but a flush cannot claim that data, and what was copied from the leg, or
/// written beside it, may be newer than what it will have.
void State::Machine::late_unflushed(unsigned i, std::uint64_t r) {
  const Region& g = region(r);
  if ((g.stale & leg_bit(i)) != 0 || removed(Rule::s1)) return;
  if (!is_last(g, i)) return set_stale(r, leg_bit(i));
  legs_[i].kept_unflushed = true;
  stop_copying(r, g.copying);
}

/// SUSPECT, and nothing is out any more: a fence costs little now, and UP is reached through one
/// only.
void State::Machine::idle_suspect(unsigned i) {
  enter_fencing(i);
}

/// The epoch is durable before the fence carries it: no later start may use it again.
void State::Machine::enter_fencing(unsigned i) {
  Leg& leg = legs_[i];
  set_leg_state(i, LegState::fencing);
  leg.suspect_until = leg.retry_at = never;
  leg.epoch = ++epoch_;
  leg.fence_at = log_.set_epoch(epoch_);
  leg.fence_out = false;
  if (removed(Rule::s2) && phase_ == Phase::serving) return proven(i);
  if (removed(Rule::b1) && phase_ == Phase::assembling) return proven(i);
}

void State::Machine::send_fences() {
  for (unsigned i = 0; i < legs_.size(); ++i) {
    Leg& leg = legs_[i];
    if (leg.state != LegState::fencing) continue;
    if (leg.joining) {
      if (leg.joins_at > log_.completed()) continue;
      leg.joining = false;
      log_.set_role(i, Role::member, Uuid{});
      enter_fencing(i);
    } else if (!leg.fence_out && leg.retry_at == never && leg.fence_at <= log_.completed()) {
      leg.fence_out = true;
      ++leg.fences;
      Action& action = act(Action::Type::fence);
      action.leg = static_cast<std::uint8_t>(i);
      action.value = leg.epoch;
      action.vouched = leg.vouched;
    }
  }
}

void State::Machine::fence_ended(unsigned i, FenceEnd end) {
  Leg& leg = legs_[i];
  if (leg.state != LegState::fencing || !leg.fence_out) return;
  leg.fence_out = false;
  kick_ = true;
  // Their session is over, so no reply will come: whoever still waits for one hears of it.
  for (std::uint32_t op = 0; op < leg.ops.size(); ++op)
    if (leg.ops[op].state == OpState::pending || leg.ops[op].state == OpState::late)
      op_failed(i, op, Fail::lost, Errc::io);
  if (leg.removing) {
    set_leg_state(i, LegState::down_unfenced);
    return go_on_removing();
  }
  if (end == FenceEnd::proof) return proven(i);
  if (end == FenceEnd::retry) {
    leg.retry_at = now_ + leg.backoff;
    leg.backoff = std::min(config_.reopen_max, 2 * leg.backoff);
    arm(leg.retry_at);
  } else {
    set_leg_state(i, LegState::down_unfenced);
  }
  if (phase_ == Phase::assembling) assemble(false);
}

/// Nothing will be heard of what is out: not of ops that requests wait for, nor of zombies.
void State::Machine::end_ops(unsigned i) {
  Leg& leg = legs_[i];
  for (std::uint32_t op = 0; op < leg.ops.size(); ++op) {
    if (leg.ops[op].state == OpState::pending || leg.ops[op].state == OpState::late)
      op_failed(i, op, Fail::lost, Errc::io);
    if (leg.ops[op].state == OpState::zombie) {
      resolve(i, op);
    } else if (leg.ops[op].state == OpState::abandoned) {
      retire(i, op);
      free_op(i, op);
    }
  }
}

/// Nothing sent before can land any more: z = 0 (S2).
void State::Machine::proven(unsigned i) {
  Leg& leg = legs_[i];
  end_ops(i);
  leg.vouched = false;
  set_leg_state(i, LegState::down_fenced);
  leg.retry_at = phase_ == Phase::serving ? now_ + leg.backoff : now_;
  kick_ = true;
  leg_time(i);
}

void State::Machine::leg_time(unsigned i) {
  Leg& leg = legs_[i];
  switch (leg.state) {
    case LegState::suspect:
      if (now_ >= leg.suspect_until) return enter_fencing(i);
      return arm(leg.suspect_until);
    case LegState::fencing:
      if (leg.retry_at == never) return;
      if (now_ >= leg.retry_at) return enter_fencing(i);
      return arm(leg.retry_at);
    case LegState::down_fenced: {
      if (leg.held || leg.removing) return;
      if (now_ < leg.retry_at) return arm(leg.retry_at);
      leg.retry_at = never;
      set_leg_state(i, LegState::opening);
      Action& action = act(Action::Type::open);
      action.leg = static_cast<std::uint8_t>(i);
      action.value = leg.epoch;
      return;
    }
    default:
      return;
  }
}

void State::Machine::opened(unsigned i, bool ok) {
  Leg& leg = legs_[i];
  if (leg.state != LegState::opening) return;
  kick_ = true;
  if (leg.removing) {
    set_leg_state(i, LegState::down_fenced);
    return go_on_removing();
  }
  if (!ok) {
    set_leg_state(i, LegState::down_fenced);
    leg.retry_at = now_ + leg.backoff;
    leg.backoff = std::min(config_.reopen_max, 2 * leg.backoff);
    leg_time(i);
  } else if (leg.held) {
    enter_fencing(i);
  } else {
    leg.up_since = now_;
    up_ |= leg_bit(i);
    set_leg_state(i, LegState::up);
    copy_retry_ = never;
    copy_stuck_ = false;  // what could not be read may be read now
    all_failed_noted_ = false;
    if (phase_ == Phase::serving) wake_leg_waiters();
  }
  if (phase_ == Phase::assembling) assemble(false);
}

/// A leg leaves in two steps: STALE everywhere, so that no other leg is marked as if this one were
/// left; then the record calls it absent. Until both are durable a restart could still trust it.
void State::Machine::remove(unsigned i) {
  Leg& leg = legs_[i];
  leg.removing = true;
  leg.leaving = false;
  leg_out(i, Why::person, Errc::cancelled);
  if (leg.state == LegState::suspect) enter_fencing(i);
  leg.leaves_at = log_.set_stale_everywhere(i, true);
  for (std::uint64_t r = 0; r < log_.regions(); ++r) {
    region(r).stale |= leg_bit(i);
    marked(region(r), leg.leaves_at, &Region::stale_pending);
  }
  stale_ticket_ = std::max(stale_ticket_, leg.leaves_at);
  go_on_removing();
}

void State::Machine::go_on_removing() {
  for (unsigned i = 0; i < legs_.size(); ++i) {
    Leg& leg = legs_[i];
    if (!leg.removing) continue;
    if (!leg.leaving && leg.leaves_at <= log_.completed()) {
      leg.leaving = true;
      leg.leaves_at = log_.set_role(i, Role::absent, Uuid{});
    }
    if (leg.leaving && leg.leaves_at <= log_.completed()) {
      present_ &= static_cast<LegMask>(~leg_bit(i));
      if (leg.state != LegState::fencing && leg.state != LegState::opening) removed_now(i);
    }
  }
}

void State::Machine::removed_now(unsigned i) {
  Leg& leg = legs_[i];
  end_ops(i);
  leg.removing = leg.held = leg.kept_unflushed = leg.vouched = false;
  set_leg_state(i, LegState::absent);
  act(Action::Type::close).leg = static_cast<std::uint8_t>(i);
}

/// And comes in two: STALE everywhere first, then a member.
void State::Machine::add(unsigned i) {
  Leg& leg = legs_[i];
  leg.joins_at = log_.set_stale_everywhere(i, true);
  for (std::uint64_t r = 0; r < log_.regions(); ++r)
    region(r).stale |= leg_bit(i);
  leg.joining = true;
  leg.config.present = true;
  leg.fence_at = 0;
  present_ |= leg_bit(i);
  set_leg_state(i, LegState::fencing);
  send_fences();
}

}  // namespace blockloom::mirror
