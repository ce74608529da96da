#include <algorithm>

#include "tests/sim/say.hpp"
#include "tests/sim/world.hpp"

// The legs: what they do with ops, and how a fence ends.
namespace blockloom::sim {

using mirror::FenceEnd;

void World::send(const Action& action) {
  SimLeg& leg = legs_[action.leg];
  require(!quiet_, "I10: an op is sent although the mirror is suspended");
  require(serving_ || action.slot >= config_.max_requests, "B1: an op before the start is over");
  const auto index = static_cast<std::uint32_t>(ops_.size());
  ops_.emplace_back();
  SimOp& op = ops_[index];
  op.id = action.op;
  op.life = life_;
  op.session = leg.number;
  op.epoch = leg.epoch;
  op.kind = action.kind;
  op.leg = action.leg;
  op.slot = action.slot;
  op.copy = action.slot >= config_.max_requests;
  op.first = static_cast<unsigned>(action.offset / block_size);
  op.count = static_cast<unsigned>(action.length / block_size);
  if (!op.copy) op.request = clients_[action.slot].number;
  if (op.kind != mirror::Kind::read && op.kind != mirror::Kind::flush) {
    if (op.copy)
      op.values = buffers_[action.slot - config_.max_requests];
    else
      op.values.fill(clients_[action.slot].value);
  }
  std::uint32_t& place = op_at_[action.leg][action.op.index];
  require(place == ~0U, "I8: an op's index is used again while the op is out");
  place = index;
  leg.live.push_back(index);
  say("  send {} leg {} slot {} blocks {}+{} op {}/{}", static_cast<int>(op.kind), op.leg, op.slot,
      op.first, op.count, op.id.index, op.id.serial);
  auto batch = std::find_if(batch_sends_.begin(), batch_sends_.end(),
                            [&](const Inline& b) { return b.slot == op.slot; });
  if (batch == batch_sends_.end())
    batch = batch_sends_.insert(batch, Inline{op.slot, action.value, {}, 0, true});
  ++batch->sent;
  if (!leg.session) {
    // The target finds the session gone before it sends: the op never lands.
    op.landed = op.barred = true;
    at(soon(ms / 10), Kind::reply, index);
    return;
  }
  op.fails = random_.percent(leg.error_percent);
  op.mute = random_.percent(leg.mute_percent) && config_.legs[op.leg].timeout != 0;
  if (leg.local && now_ >= leg.hung_until) {
    batch->ops.push_back(index);
    batch->ok = batch->ok && !op.fails;
    op.mute = true;  // inline_batch() tells its end
    return land(index);
  }
  Time delay = 1 + random_.below(leg.latency);
  if (random_.percent(3)) delay *= 1 + random_.below(60);  // now and then very late
  at(std::max(now_ + delay, leg.hung_until + random_.below(leg.latency)), Kind::land, index);
}

/// After a visit's actions: what was done in the caller's thread is reported, in the short form
/// where that is possible.
void World::inline_batch() {
  for (Inline& b : batch_sends_) {
    if (b.ops.empty()) continue;
    const bool read = ops_[b.ops.front()].kind == mirror::Kind::read;
    if (b.ok && b.sent == b.ops.size() && !(read && config_.hedge != 0) && random_.percent(80)) {
      inline_done_.push_back(b);
      at(soon(ms / 10), Kind::all_ok, static_cast<std::uint32_t>(inline_done_.size() - 1));
      continue;
    }
    for (const std::uint32_t index : b.ops)
      at(soon(ms / 10), Kind::reply, index);
  }
  batch_sends_.clear();
}

void World::all_ok(std::uint32_t which) {
  const Inline b = inline_done_[which];
  // A fence has told the end of its leg's part: the other legs' are told one by one.
  if (std::any_of(b.ops.begin(), b.ops.end(), [&](std::uint32_t op) { return ops_[op].told; })) {
    const std::uint32_t life = life_;
    for (const std::uint32_t index : b.ops) {
      if (life == life_) tell(index, OpEnd::ok);
    }
    return;
  }
  for (const std::uint32_t index : b.ops) {
    SimOp& op = ops_[index];
    op.told = true;
    op_at_[op.leg][op.id.index] = ~0U;
    keep_read(op);
    forget(index);
  }
  say("all ok: slot {}", b.slot);
  feed(Event::all_ok(now_, b.slot, b.serial));
}

/// What a read brought, where the action `answer` (or a copy, or a compare) looks for it.
void World::keep_read(const SimOp& op) {
  if (op.kind != mirror::Kind::read) return;
  if (op.slot == scrub_slot())
    scrub_values_[op.leg] = op.values;
  else if (op.copy)
    buffers_[op.slot - config_.max_requests] = op.values;
  else
    read_values_[op.leg][op.id.index] = op.values;
}

/// The op happens at the leg; a leg that hangs lets it happen later.
void World::land(std::uint32_t index) {
  SimOp& op = ops_[index];
  if (op.landed) return;
  SimLeg& leg = legs_[op.leg];
  if (now_ < leg.hung_until) {
    at(leg.hung_until + random_.below(leg.latency), Kind::land, index);
    return;
  }
  apply(op);
  if (op.told || op.life != life_) return forget(index);
  if (!op.mute) at(soon(leg.latency), Kind::reply, index);
}

void World::apply(SimOp& op) {
  SimLeg& leg = legs_[op.leg];
  op.landed = true;
  // Whatever an erring leg did before it failed: half of them did it.
  if (op.fails && random_.percent(50)) return;
  switch (op.kind) {
    case mirror::Kind::read:
      for (unsigned i = 0; i < op.count; ++i)
        op.values[i] = leg.cache[op.first + i];
      break;
    case mirror::Kind::flush:
      if (op.fails) return;
      leg.durable = leg.cache;
      leg.copied.fill(false);
      break;
    default:
      require(op.epoch >= leg.proof, "I7: an op landed after a fence for a later epoch returned");
      for (unsigned i = 0; i < op.count; ++i) {
        leg.cache[op.first + i] = op.values[i];
        leg.copied[op.first + i] = op.copy;
      }
      say("    leg {} block {}+{} = {}{}", op.leg, op.first, op.count, op.values[0],
          op.life != life_ ? " (of an earlier life)"
          : op.told        ? " (late)"
                           : "");
      check_region(op.first / blocks_per_region);
  }
}

void World::reply(std::uint32_t index) {
  const SimOp& op = ops_[index];
  if (op.told || !op.landed) return;
  const SimLeg& leg = legs_[op.leg];
  // A reply comes through the session that carried the request.
  if (!op.barred && (op.session != leg.number || !leg.session)) return;
  tell(index, op.barred ? OpEnd::cancelled : op.fails ? OpEnd::error : OpEnd::ok);
}

/// The engine hears the op's end, or that nobody knows it.
void World::tell(std::uint32_t index, OpEnd end) {
  SimOp& op = ops_[index];
  if (op.told) return;
  op.told = true;
  op_at_[op.leg][op.id.index] = ~0U;
  if (end == OpEnd::ok) keep_read(op);
  const OpId id = op.id;
  say("  leg {} op {}/{} ends {}", id.leg, id.index, id.serial, static_cast<int>(end));
  if (op.landed) forget(index);
  feed(Event::op_ended(now_, id, end, end == OpEnd::error ? Errc::io : Errc::ok));
}

void World::forget(std::uint32_t index) {
  std::erase(legs_[ops_[index].leg].live, index);
}

/// All that was sent before happens now, or (where the fence can bar it) never.
void World::settle_leg(unsigned i, bool may_drop) {
  SimLeg& leg = legs_[i];
  const std::vector<std::uint32_t> live = leg.live;
  for (const std::uint32_t index : live) {
    SimOp& op = ops_[index];
    if (!op.landed) {
      if (may_drop && random_.percent(50))
        op.landed = op.barred = true;
      else
        apply(op);
    }
    if (op.told || op.life != life_) forget(index);
  }
}

void World::start_fence(const Action& action) {
  const unsigned i = action.leg;
  SimLeg& leg = legs_[i];
  fence_epoch_[i] = action.value;
  fence_alive_[i] = leg.session;
  say("  fence leg {} epoch {}", i, action.value);
  const Time start = std::max({now_, leg.hung_until, leg.away_until});
  at(start + 1 + random_.below(20 * ms), Kind::fence_done, i);
  ++verdict_.fences;
}

void World::fence_done(unsigned i) {
  SimLeg& leg = legs_[i];
  if (now_ < leg.hung_until) return at(leg.hung_until + 1, Kind::fence_done, i);
  FenceEnd end = FenceEnd::proof;
  if (now_ < leg.away_until || (!healing_ && random_.percent(10)))
    end = FenceEnd::retry;
  else if (leg.fence == FenceKind::drain && !fence_alive_[i] && !leg.vouched)
    end = FenceEnd::none;
  const std::uint32_t life = life_;
  if (end == FenceEnd::proof) settle_leg(i, leg.fence == FenceKind::epoch);
  leg.session = false;
  // The target reports each op's end before the fence's.
  const std::vector<std::uint32_t> live = leg.live;
  for (const std::uint32_t index : live) {
    SimOp& op = ops_[index];
    if (op.told || op.life != life_) continue;
    const bool known = end == FenceEnd::proof && op.landed && random_.percent(60);
    tell(index, !known      ? OpEnd::unknown
                : op.barred ? OpEnd::cancelled
                : op.fails  ? OpEnd::error
                            : OpEnd::ok);
    if (life != life_) return;
  }
  if (end == FenceEnd::proof) leg.proof = std::max(leg.proof, fence_epoch_[i]);
  say("  fence leg {} ends {}", i, static_cast<int>(end));
  feed(Event::fence_ended(now_, i, end));
}

void World::start_open(const Action& action) {
  fence_epoch_[action.leg] = action.value;
  at(soon(10 * ms), Kind::open_done, action.leg);
}

void World::open_done(unsigned i) {
  SimLeg& leg = legs_[i];
  if (now_ < leg.hung_until) return at(leg.hung_until + 1, Kind::open_done, i);
  const bool ok = now_ >= leg.away_until && (healing_ || !random_.percent(15));
  if (ok) {
    leg.session = true;
    ++leg.number;
    leg.epoch = fence_epoch_[i];
    leg.vouched = false;
  }
  say("  open leg {}: {}", i, ok ? "ok" : "failed");
  feed(Event::opened(now_, i, ok));
}

}  // namespace blockloom::sim
