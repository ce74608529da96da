// How the machine's actions are carried out, outside its mutex.
#include <algorithm>
#include <cstring>

#include "server/target/mirror/mirror_batch.hpp"

namespace blockloom::mirror {
namespace {

Op op_of(Kind kind) noexcept {
  switch (kind) {
    case Kind::write:
      return Op::write;
    case Kind::trim:
      return Op::trim;
    case Kind::zero:
      return Op::zero;
    case Kind::flush:
      return Op::flush;
    case Kind::read:
      break;
  }
  return Op::read;
}

std::uint64_t packed(IoHandle handle) noexcept {
  return std::uint64_t{handle.generation} << 32 | handle.index;
}
IoHandle unpacked(std::uint64_t handle) noexcept {
  return {static_cast<std::uint32_t>(handle), static_cast<std::uint32_t>(handle >> 32)};
}

}  // namespace

void Mirror::run(Batch& batch) noexcept {
  for (;;) {
    carry(batch);
    finish_answers(batch);
    if (batch.ended.empty()) break;
    batch.actions.clear();
    {
      const std::lock_guard lock(mutex_);
      if (state_ == nullptr) return;
      for (const Batch::Ended& ended : batch.ended) {
        for (unsigned leg = 0; leg < max_legs; ++leg)
          if ((ended.legs & leg_bit(leg)) != 0) --places_[leg].out;
        state_->on(ended.event, batch.actions);
      }
      settle_locked(batch);
    }
    for (const Batch::Ended& ended : batch.ended)
      for (unsigned leg = 0; leg < max_legs; ++leg)
        if ((ended.legs & leg_bit(leg)) != 0) check_fence(leg);
    batch.ended.clear();
  }
  if (batch.unpark) start_parked();
}

void Mirror::finish_answers(Batch& batch) noexcept {
  for (Batch::Answer& answer : batch.answers) {
    Io& io = *answer.io;
    if (answer.data) std::memcpy(io.data, answer.data.data(), io.length.value);
    // Nothing was sent and nobody but a suspend took it back: for the client that is an error.
    Errc errc = answer.errc == Errc::cancelled ? Errc::io : answer.errc;
    if (errc == Errc::ok && answer.extents)
      for (const Extent& extent : answer.extents->list())
        if (!io.extents->add(extent)) break;
    inside_.fetch_sub(1, std::memory_order_relaxed);
    if (&io == batch.own) {
      batch.own_ended = true;
      batch.own_status = errc;
    } else {
      io.status = errc;
      io.complete(io);
    }
  }
  batch.answers.clear();
  batch.trash.clear();
}

void Mirror::carry(Batch& batch) noexcept {
  batch.ok.clear();
  for (std::size_t i = 0; i < batch.actions.size(); ++i) {
    const Action action = batch.actions[i];
    switch (action.type) {
      case Action::Type::send: {
        // What would hold this thread up goes to the worker: copies, and whatever comes up on a
        // leg's thread.
        const bool clients =
            batch.own != nullptr && !batch.own_ended && action.slot < client_slots_;
        const bool worker = batch.may_block && batch.own == nullptr;
        if (places_[action.leg].here && !clients && !worker)
          post(action);
        else
          carry_send(batch, action);
        break;
      }
      case Action::Type::cancel:
        cancel_op(action.op);
        break;
      case Action::Type::commit:
        if (batch.may_block && !batch.own_ended)
          commit(batch);
        else
          post(action);
        break;
      case Action::Type::fence:
      case Action::Type::open:
      case Action::Type::close:
      case Action::Type::compare:
      case Action::Type::notice:
        post(action);
        break;
      default:
        break;  // settled with the visit
    }
  }
  if (batch.ok.empty()) return;
  // The short form, for a request whose ops are all of this batch and all well.
  const OpContext& first = places_[batch.ok[0].leg].ops[batch.ok[0].index];
  const Slot slot = first.slot;
  std::size_t sends = 0;
  LegMask legs = 0;
  bool short_form = true;
  std::uint64_t serial = 0;
  for (const Action& action : batch.actions) {
    if (action.type != Action::Type::send) continue;
    ++sends;
    short_form = short_form && action.slot == slot && !(hedging_ && action.kind == Kind::read);
    serial = action.value;
  }
  for (const OpId& op : batch.ok)
    legs = static_cast<LegMask>(legs | leg_bit(op.leg));
  if (short_form && sends == batch.ok.size()) {
    batch.ended.push_back({Event::all_ok(now(), slot, serial), legs});
    return;
  }
  for (const OpId& op : batch.ok)
    batch.ended.push_back({Event::op_ended(now(), op, OpEnd::ok), leg_bit(op.leg)});
}

void Mirror::carry_send(Batch& batch, const Action& action) noexcept {
  Place& place = places_[action.leg];
  OpContext& context = place.ops[action.op.index];
  const bool carries = action.kind == Kind::read || action.kind == Kind::write;
  auto ended = [&](OpEnd end, Errc errc) {
    batch.ended.push_back({Event::op_ended(now(), action.op, end, errc), leg_bit(action.leg)});
  };
  // Without a buffer nothing is sent, which harms nobody but this one op.
  const SlotContext& slot = slots_[action.slot];
  const bool extents = slot.io != nullptr && slot.io->op == Op::extents;
  const bool unsent = (carries && !extents && !context.buffer && context.data == nullptr) ||
                      context.cancel_wanted.load();
  if (unsent) {
    ended(OpEnd::cancelled, Errc::no_memory);
  } else {
    const IoRegion region{action.leg, place.offset + Bytes(action.offset), Bytes(action.length)};
    IoRequest request;
    request.op = op_of(action.kind);
    request.flags = action.flags;
    request.shard = static_cast<std::uint8_t>(this_thread_shard());
    request.regions = {&region, 1};
    request.data = context.data;
    request.buffer = context.buffer;
    request.notify = op_notice;
    request.context = &context;
    IoRegion flush_region = region;
    if (action.kind == Kind::flush) {
      flush_region.offset = flush_region.length = Bytes(0);
      request.regions = {&flush_region, 1};
    }
    if (extents) {
      // A list of its own: a leg that fails half-way must not leave its part in the answer.
      slots_[action.slot].extents = std::make_unique<Extents>();
      request.op = Op::extents;
      request.extents = slot.extents.get();
      request.buffer.reset();
    }
    IoResults results;
    IoHandle handle;
    if (client_->submit(request, results, &handle) == Submit::pending) {
      context.handle.store(packed(handle));
      if (context.cancel_wanted.load()) client_->cancel(handle);
    } else if (results.states[0] == RegionState::ok) {
      batch.ok.push_back(action.op);
    } else {
      ended(results.states[0] == RegionState::error ? OpEnd::error : OpEnd::cancelled,
            results.status[0]);
    }
  }
  if (!place.here && place.in_hand.fetch_sub(1) == 1 && place.fence_waits.exchange(false)) {
    Action again;
    again.type = Action::Type::fence;
    again.leg = action.leg;
    again.value = 0;  // the epoch is known
    post(again);
  }
}

void Mirror::cancel_op(const OpId& op) noexcept {
  OpContext& context = places_[op.leg].ops[op.index];
  context.cancel_wanted.store(true);
  if (const std::uint64_t handle = context.handle.load(); handle != 0)
    client_->cancel(unpacked(handle));
}

/// On a leg's or a lane's thread, or the canceller's.
void Mirror::op_notice(const IoNotice& notice, void* opaque) noexcept {
  if (!notice.final) return;  // given up, and still out: the machine hears of its end
  OpContext& context = *static_cast<OpContext*>(opaque);
  Mirror& mirror = *context.mirror;
  OpEnd end = OpEnd::error;
  if (notice.state == RegionState::ok) end = OpEnd::ok;
  if (notice.state == RegionState::cancelled) end = OpEnd::cancelled;
  if (notice.state == RegionState::timeout) end = OpEnd::unknown;
  const BatchHold hold;
  hold->ended.push_back(
      {Event::op_ended(mirror.now(), context.id, end, notice.status), leg_bit(context.id.leg)});
  mirror.run(*hold);
}

void Mirror::commit(Batch& batch) noexcept {
  const bool ok = log_store_->commit([this](std::vector<LogWrite>& writes) {
    const std::lock_guard lock(mutex_);
    return state_->log().next_batch(writes);
  });
  batch.ended.push_back({Event::log_committed(now_ns(), ok), 0});
}

}  // namespace blockloom::mirror
