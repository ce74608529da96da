// Requests, and how the machine's actions are carried out.
#include <algorithm>
#include <cstring>

#include "server/target/mirror/mirror_batch.hpp"

namespace blockloom::mirror {
namespace {

// Of requests that wait for a slot; frontends bound theirs far below.
constexpr std::size_t most_parked = 65536;

Kind kind_of(Op op) noexcept {
  switch (op) {
    case Op::write:
      return Kind::write;
    case Op::trim:
      return Kind::trim;
    case Op::zero:
      return Kind::zero;
    case Op::flush:
      return Kind::flush;
    default:
      return Kind::read;  // extents travel as a read: they, too, are asked of a leg in sync (R1)
  }
}

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

/// Without deadlines anywhere the machine needs no clock, and the hot path reads none.
Time Mirror::now() const noexcept {
  return bounded_ ? now_ns() : 0;
}

// --- A request comes in -----------------------------------------------------------------------

/// A write that may outlive its answer is copied once, here (W2); and a read of a leg that does
/// not answer inside the call goes where nobody can pull it away (R4).
bool Mirror::needs_copy(const Io& io) const noexcept {
  return !all_here_ && io.op == Op::write;
}

Map Mirror::map(Io& io) noexcept {
  switch (io.op) {
    case Op::cache:  // a hint
      return io.status = Errc::ok, Map::done;
    case Op::zero:
      // One leg may be quick at it and another not: the client is told to write zeroes, as it
      // would be by a file that cannot.
      if (io.has(io_flag::fast)) return io.status = Errc::not_supported, Map::done;
      break;
    case Op::extents:
      if (all_here_) break;
      // Told without asking a leg that may not answer: all of it is data.
      io.status = io.extents->add({io.length, false, false}) ? Errc::ok : Errc::limit;
      return Map::done;
    default:
      break;
  }
  inside_.fetch_add(1, std::memory_order_relaxed);
  IoBufferRef buffer;
  if (needs_copy(io)) {
    buffer = client_->buffers().acquire(io.length);
    if (!buffer) {
      if (park(io)) return Map::pending;
      inside_.fetch_sub(1, std::memory_order_relaxed);
      return io.status = Errc::no_memory, Map::done;
    }
    std::memcpy(buffer.data(), io.data, io.length.value);
  }
  return submit_slot(io, std::move(buffer));
}

Map Mirror::submit_slot(Io& io, IoBufferRef buffer) noexcept {
  const BatchHold hold;
  Batch& batch = *hold;
  batch.own = &io;
  batch.may_block = true;
  {
    const std::lock_guard lock(mutex_);
    if (!serving_ || free_slots_.empty()) {
      const bool hopeless = refused_ || parked_.size() >= most_parked;
      if (!hopeless) {
        parked_.push_back(&io);
        return Map::pending;
      }
      io.status = refused_ ? Errc::io : Errc::limit;
      inside_.fetch_sub(1, std::memory_order_relaxed);
      return Map::done;
    }
    const Slot slot = free_slots_.back();
    free_slots_.pop_back();
    slots_[slot].io = &io;
    slots_[slot].buffer = std::move(buffer);
    const Kind kind = kind_of(io.op);
    state_->on(Event::submit(now(), slot, kind, io.offset.value, io.length.value, io.flags),
               batch.actions);
    settle_locked(batch);
  }
  // From here on the request may end on any thread: it is not touched but by its answer.
  run(batch);
  if (!batch.own_ended) return Map::pending;
  io.status = batch.own_status;
  return Map::done;
}

bool Mirror::park(Io& io) noexcept {
  const std::lock_guard lock(mutex_);
  if (refused_ || parked_.size() >= most_parked) return false;
  parked_.push_back(&io);
  return true;
}

/// Lets those in that waited for a slot, a buffer or the start, as far as there is room.
void Mirror::start_parked() noexcept {
  std::size_t left = 0;
  {
    const std::lock_guard lock(mutex_);
    left = parked_.size();
  }
  // One that finds no buffer parks again: bounded by how many there were.
  for (; left > 0; --left) {
    Io* io = nullptr;
    bool hopeless = false;
    {
      const std::lock_guard lock(mutex_);
      if (parked_.empty() || (!refused_ && (!serving_ || free_slots_.empty()))) return;
      hopeless = refused_;
      io = parked_.front();
      parked_.pop_front();
    }
    inside_.fetch_sub(1, std::memory_order_relaxed);
    if (hopeless)
      io->status = Errc::io;
    else if (map(*io) == Map::pending)
      continue;
    io->complete(*io);
  }
}

void Mirror::fail_parked(Errc status) noexcept {
  std::deque<Io*> failed;
  {
    const std::lock_guard lock(mutex_);
    failed.swap(parked_);
  }
  for (Io* io : failed) {
    inside_.fetch_sub(1, std::memory_order_relaxed);
    io->status = status;
    io->complete(*io);
  }
}

// --- Visits -----------------------------------------------------------------------------------

void Mirror::visit(const Event& event, bool may_block) noexcept {
  const BatchHold hold;
  hold->may_block = may_block;
  {
    const std::lock_guard lock(mutex_);
    if (state_ == nullptr) return;
    state_->on(event, hold->actions);
    settle_locked(*hold);
  }
  run(*hold);
}

/// What has to happen together with the visit: contexts of ops are set, slots given back.
void Mirror::settle_locked(Batch& batch) noexcept {
  std::size_t settled = 0;
  do {
    while (settled < batch.actions.size())
      settle_action_locked(batch, batch.actions[settled++]);
    if (draining_) drop_waiting_locked(batch);
  } while (settled < batch.actions.size());
  arm_locked();
}

void Mirror::settle_action_locked(Batch& batch, const Action& action) noexcept {
  switch (action.type) {
    case Action::Type::send:
      settle_send_locked(action);
      break;
    case Action::Type::answer:
      settle_answer_locked(batch, action);
      break;
    case Action::Type::free_slot:
      batch.trash.push_back(std::move(slots_[action.slot].buffer));
      free_slots_.push_back(action.slot);
      batch.unpark = batch.unpark || !parked_.empty();
      break;
    case Action::Type::started:
      started_ = true;
      start_result_ = action.errc;
      missing_legs_ = action.mask;
      serving_ = action.errc == Errc::ok;
      refused_ = !serving_;
      refusal_ = state_->refusal();
      batch.unpark = true;
      changed_.notify_all();
      break;
    case Action::Type::quiesced:
      quiesced_ = true;
      changed_.notify_all();
      break;
    case Action::Type::stopped:
      stopped_ = true;
      changed_.notify_all();
      break;
    default:
      break;
  }
}

void Mirror::settle_send_locked(const Action& action) noexcept {
  Place& place = places_[action.leg];
  OpContext& context = place.ops[action.op.index];
  SlotContext& slot = slots_[action.slot];
  context.id = action.op;
  context.slot = action.slot;
  context.handle.store(0, std::memory_order_relaxed);
  context.cancel_wanted.store(false, std::memory_order_relaxed);
  context.buffer.reset();
  context.data = nullptr;
  ++place.out;
  slot.length = action.length;
  if (!place.here) place.in_hand.fetch_add(1);
  if (action.kind != Kind::read && action.kind != Kind::write) return;
  const bool machines = slot.io == nullptr;
  if (action.own_buffer) {
    slot.own[action.leg] = client_->buffers().acquire(Bytes(action.length));
    context.buffer = slot.own[action.leg];
  } else if (machines) {
    if (!slot.buffer) slot.buffer = client_->buffers().acquire(Bytes(action.length));
    context.buffer = slot.buffer;
  } else if (slot.buffer) {
    context.buffer = slot.buffer;
  } else {
    context.data = slot.io->data;
  }
}

void Mirror::settle_answer_locked(Batch& batch, const Action& action) noexcept {
  SlotContext& slot = slots_[action.slot];
  if (slot.io != nullptr) {
    Batch::Answer& answer = batch.answers.emplace_back();
    answer.io = std::exchange(slot.io, nullptr);
    answer.errc = action.errc;
    if (action.errc == Errc::ok && answer.io->op == Op::read)
      answer.data = std::move(slot.own[action.op.leg]);
    answer.extents = std::move(slot.extents);
  }
  for (IoBufferRef& own : slot.own)
    if (own) batch.trash.push_back(std::move(own));
  if (slot.buffer && !action.keep) batch.trash.push_back(std::move(slot.buffer));
  if (action.keep || action.slot >= client_slots_) return;
  free_slots_.push_back(action.slot);
  batch.unpark = batch.unpark || !parked_.empty();
}

/// While a suspend waits, requests that nothing but a leg's return can end are ended: the queue of
/// on_all_failed=queue obeys suspend and removal.
void Mirror::drop_waiting_locked(Batch& batch) noexcept {
  const MirrorView view = state_->view(now());
  if (view.waiting_for_leg == 0 || view.waiting_for_leg != view.in_flight) return;
  for (Slot slot = 0; slot < client_slots_; ++slot)
    if (slots_[slot].io != nullptr) state_->on(Event::cancel(now(), slot), batch.actions);
}

// --- Carrying out -----------------------------------------------------------------------------

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
