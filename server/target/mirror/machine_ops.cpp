#include <algorithm>

#include "server/target/mirror/machine.hpp"

// Ops: one leg's part of a request, how it ends, and what it is when nobody knows its end.
namespace blockloom::mirror {

void State::Machine::push_work(Slot slot) {
  Request& r = requests_[slot];
  if (r.queued) return;
  r.queued = true;
  work_.push_back(slot);
}

void State::Machine::send(Slot slot, unsigned i, Kind kind, bool own_buffer) {
  Request& r = requests_[slot];
  Leg& leg = legs_[i];
  const std::uint16_t index = leg.free_ops.back();
  leg.free_ops.pop_back();
  Op& op = leg.ops[index];
  op.slot = slot;
  op.state = OpState::pending;
  op.kind = kind;
  op.offset = r.offset;
  op.length = r.length;
  r.op[i] = index;
  r.pending |= leg_bit(i);
  ++leg.outstanding;
  const bool read = kind == Kind::read;
  if (const Time limit = read ? leg.config.read_timeout : leg.config.timeout; limit != 0) {
    op.deadline = now_ + limit;
    op.list = read ? 1 : 0;
    leg.lists[op.list].push_back(leg.ops, index);
    arm(op.deadline);
  }
  Action& action = act(Action::Type::send);
  action.kind = kind;
  action.leg = static_cast<std::uint8_t>(i);
  action.flags = r.flags;
  action.own_buffer = own_buffer;
  action.slot = slot;
  action.op = {op.serial, index, static_cast<std::uint8_t>(i)};
  action.offset = op.offset;
  action.length = op.length;
  action.value = r.serial;
}

/// It does not run any more, or nobody will hear of it again.
void State::Machine::retire(unsigned i, std::uint32_t index) {
  Leg& leg = legs_[i];
  Op& op = leg.ops[index];
  if (op.list != 0xff) leg.lists[op.list].erase(leg.ops, index);
  op.list = 0xff;
  --leg.outstanding;
  if (leg.state == LegState::suspect && leg.outstanding == 0) idle_suspect(i);
}

void State::Machine::free_op(unsigned i, std::uint32_t index) {
  Leg& leg = legs_[i];
  Op& op = leg.ops[index];
  op.state = OpState::free;
  op.slot = nil;
  ++op.serial;
  leg.free_ops.push_back(static_cast<std::uint16_t>(index));
}

void State::Machine::op_ended(const Event& event) {
  const unsigned i = event.op.leg;
  if (i >= legs_.size() || event.op.index >= legs_[i].ops.size()) return;
  const Op& op = legs_[i].ops[event.op.index];
  if (op.serial != event.op.serial || op.state == OpState::free || op.state == OpState::won)
    return;  // late: a fence has resolved it
  const std::uint32_t index = event.op.index;
  switch (op.state) {
    case OpState::zombie:
      // Z2: whatever it answers, STALE stays. Unknown stays unknown, until a fence's proof.
      if (event.end != OpEnd::unknown) resolve(i, index);
      return;
    case OpState::abandoned:
      retire(i, index);
      free_op(i, index);
      return;
    default:
      break;
  }
  if (event.end == OpEnd::ok) {
    const Slot slot = op.slot;
    op_ok(slot, i);
    push_work(slot);
    return;
  }
  legs_[i].last_error = event.errc;
  ++legs_[i].errors;
  note(Notice::leg_error, i, event.errc, op.offset, op.length);
  op_failed(i, index, event.end == OpEnd::unknown ? Fail::lost : Fail::error, event.errc);
}

/// An op that its request waited for.
void State::Machine::op_ok(Slot slot, unsigned i) {
  Request& r = requests_[slot];
  Leg& leg = legs_[i];
  const LegMask bit = leg_bit(i);
  const std::uint32_t index = r.op[i];
  Op& op = leg.ops[index];
  retire(i, index);
  r.pending &= static_cast<LegMask>(~bit);
  r.ok |= bit;
  if (op.kind == Kind::flush) {
    leg.flushed = std::max(leg.flushed, r.number);
    leg.kept_unflushed = false;
  } else if (op.kind != Kind::read) {
    region(r.region).stamp = next_flush_;
    if (leg.state != LegState::up) late_unflushed(i, r.region);
  } else if (r.use == Use::user) {
    if ((region(r.region).stale & bit) != 0 && !removed(Rule::r1)) {
      r.ok = 0;  // the leg fell behind meanwhile
      r.tried |= bit;
    } else {
      op.state = OpState::won;
      r.winner = {op.serial, static_cast<std::uint16_t>(index), static_cast<std::uint8_t>(i)};
      r.ok = bit;
      for (LegMask rest = r.pending; rest != 0; rest &= static_cast<LegMask>(rest - 1))
        abandon(first_leg(rest), r.op[first_leg(rest)], true);
      return;
    }
  }
  free_op(i, index);
}

void State::Machine::op_failed(unsigned leg, std::uint32_t index, Fail how, Errc errc) {
  const Op& op = legs_[leg].ops[index];
  Request& r = requests_[op.slot];
  r.errc = errc == Errc::ok ? Errc::io : errc;
  if (how == Fail::lost) r.lost = true;
  if (op.kind == Kind::flush) return flush_failed(leg, index, how, errc);
  if (op.kind == Kind::read) return read_failed(leg, index, how);
  if (r.use == Use::copy) return copy_write_failed(leg, index, how);
  write_failed(leg, index, how);
}

/// W5.
void State::Machine::write_failed(unsigned leg, std::uint32_t index, Fail how) {
  const LegMask bit = leg_bit(leg);
  const Slot slot = legs_[leg].ops[index].slot;
  Request& r = requests_[slot];
  const Errc errc = r.errc;
  const bool last = is_last(region(r.region), leg) && !removed(Rule::w5_last);
  r.pending &= static_cast<LegMask>(~bit);
  // Never the last one: who else would have the data? Its op holds the interval instead.
  if (!last && !(removed(Rule::w5) && how == Fail::time)) set_stale(r.region, bit);
  if (how == Fail::error) {
    retire(leg, index);
    free_op(leg, index);
    // A write that failed may have changed what the leg holds, and that is not flushed.
    region(r.region).stamp = next_flush_;
    if (legs_[leg].state != LegState::up) late_unflushed(leg, r.region);
  } else {
    make_zombie(leg, index, last);
  }
  push_work(slot);
  if (how == Fail::time) {
    if (!removed(Rule::z1)) leg_out(leg, Why::timeout, errc);
  } else if (how == Fail::lost) {
    leg_out(leg, Why::lost, errc);
  } else if (!last) {
    leg_out(leg, Why::error, errc);
  } else if (config_.on_all_failed == OnAllFailed::queue) {
    // A pause instead of an error: it is tried again when the leg was opened anew.
    r.lost = true;
    leg_out(leg, Why::error, errc);
  }
}

/// Also a copy's and a scrub's; they look for another leg, or give the chunk up.
void State::Machine::read_failed(unsigned leg, std::uint32_t index, Fail how) {
  const LegMask bit = leg_bit(leg);
  const Slot slot = legs_[leg].ops[index].slot;
  Request& r = requests_[slot];
  r.tried |= bit;
  // What it cannot read it does not hold: another leg's copy is written over it.
  const auto others = static_cast<LegMask>(up_ & ~region(r.region).stale & ~bit);
  if (how == Fail::error && others != 0) {
    set_stale(r.region, bit);
    kick_ = true;
  }
  const Errc errc = r.errc;
  if (how == Fail::time) {
    abandon(leg, index);
  } else {
    r.pending &= static_cast<LegMask>(~bit);
    retire(leg, index);
    free_op(leg, index);
  }
  push_work(slot);
  if (how != Fail::error) leg_out(leg, how == Fail::time ? Why::timeout : Why::lost, errc);
}

/// Whether its request has nothing but this op to hope for.
bool State::Machine::alone(const Op& op, unsigned leg) const noexcept {
  const LegMask bit = leg_bit(leg);
  const Request& r = requests_[op.slot];
  if (op.kind == Kind::flush) return (up_ & ~bit) == 0;
  const Region& g = region(r.region);
  if (op.kind != Kind::read) return is_last(g, leg);
  if (r.use == Use::user) return (readable(r) & ~bit) == 0;
  return (up_ & ~g.stale & ~bit) == 0;
}

void State::Machine::op_timeout(unsigned i, std::uint32_t index, bool hard) {
  Leg& leg = legs_[i];
  Op& op = leg.ops[index];
  ++leg.timeouts;
  if (op.state == OpState::abandoned) {
    leg.lists[op.list].erase(leg.ops, index);
    op.list = 0xff;
    note(Notice::leg_slow, i, Errc::timed_out, op.offset, op.length);
    return leg_out(i, Why::timeout, Errc::timed_out);
  }
  if (!hard) {
    note(Notice::leg_slow, i, Errc::timed_out, op.offset, op.length);
    if (alone(op, i) && !(removed(Rule::w5_last) && op.kind != Kind::read)) {
      // W5: it has as long again, up to the hard limit.
      leg.lists[op.list].erase(leg.ops, index);
      op.list = static_cast<std::uint8_t>(op.list + 2);
      op.deadline += op.kind == Kind::read ? leg.config.read_timeout : leg.config.timeout;
      op.state = OpState::late;
      leg.lists[op.list].push_back(leg.ops, index);
      arm(op.deadline);
      return;
    }
  } else {
    note(Notice::hard_limit, i, Errc::timed_out, op.offset, op.length);
  }
  op_failed(i, index, Fail::time, Errc::timed_out);
}

void State::Machine::make_zombie(unsigned i, std::uint32_t index, bool locks) {
  Leg& leg = legs_[i];
  Op& op = leg.ops[index];
  if (op.list != 0xff) leg.lists[op.list].erase(leg.ops, index);
  op.list = 0xff;
  op.state = OpState::zombie;
  ++leg.zombies;
  leg.zombie_bytes += op.length;
  region(op.offset >> shift_).zombies |= leg_bit(i);
  if (locks)
    requests_[op.slot].locking |= leg_bit(i);
  else
    op.slot = nil;
  Action& action = act(Action::Type::cancel);
  action.leg = static_cast<std::uint8_t>(i);
  action.op = {op.serial, static_cast<std::uint16_t>(index), static_cast<std::uint8_t>(i)};
}

/// A zombie's end is known: by its reply, or because a fence proved that it will never land.
void State::Machine::resolve(unsigned i, std::uint32_t index) {
  Leg& leg = legs_[i];
  Op& op = leg.ops[index];
  const LegMask bit = leg_bit(i);
  const std::uint64_t r = op.offset >> shift_;
  const Slot slot = op.slot;
  --leg.zombies;
  leg.zombie_bytes -= op.length;
  retire(i, index);
  free_op(i, index);
  Region& g = region(r);
  g.stamp = next_flush_;  // it may have landed
  late_unflushed(i, r);
  const bool more = std::any_of(leg.ops.begin(), leg.ops.end(), [&](const Op& other) {
    return other.state == OpState::zombie && other.offset >> shift_ == r;
  });
  if (!more) g.zombies &= static_cast<LegMask>(~bit);
  if (slot == nil) return;
  Request& request = requests_[slot];
  request.locking &= static_cast<LegMask>(~bit);
  if (request.locking != 0) return;
  if (request.step == Step::waiting && request.locks) unlock(slot);
  if (request.step != Step::locked) return;
  release(slot);
  act(Action::Type::free_slot).slot = slot;
}

/// A read or flush that its request does not wait for any more. One that lost a race is watched
/// further: its leg has to answer in time all the same.
void State::Machine::abandon(unsigned i, std::uint32_t index, bool watched) {
  Leg& leg = legs_[i];
  Op& op = leg.ops[index];
  if (!watched && op.list != 0xff) {
    leg.lists[op.list].erase(leg.ops, index);
    op.list = 0xff;
  }
  requests_[op.slot].pending &= static_cast<LegMask>(~leg_bit(i));
  op.state = OpState::abandoned;
  op.slot = nil;
  Action& action = act(Action::Type::cancel);
  action.leg = static_cast<std::uint8_t>(i);
  action.op = {op.serial, static_cast<std::uint16_t>(index), static_cast<std::uint8_t>(i)};
}

}  // namespace blockloom::mirror
