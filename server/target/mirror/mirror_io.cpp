// Requests, and what the machine says of them. mirror_carry.cpp does it.
#include <algorithm>
#include <cstring>

#include "server/base/log.hpp"
#include "server/leg/uri.hpp"
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
      // Before the fork nobody waited for it: people hear of it here.
      if (refused_) post_call([text = public_uri(refusal_locked())] { log_error(text); });
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

}  // namespace blockloom::mirror
