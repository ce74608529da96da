// How a region travels and ends. See io_slot.hpp for who protects what.
#include <algorithm>
#include <new>

#include "server/io/io_slot.hpp"

namespace blockloom {

// --- Slots ------------------------------------------------------------------------------------

IoClient::Core::~Core() = default;

bool IoClient::Core::grow_locked() noexcept {
  if (chunk_count == most_chunks || chunk_count * chunk_slots >= options.most_requests)
    return false;
  auto* chunk = new (std::nothrow) Chunk;
  if (chunk == nullptr) return false;
  for (std::size_t i = 0; i < chunk_slots; ++i) {
    Slot& slot = (*chunk)[i];
    slot.index = static_cast<std::uint32_t>(chunk_count * chunk_slots + i);
    slot.timer.owner = &slot;
    slot.timer.fire = timer_fired;
    for (std::uint32_t p = 0; p < max_io_legs; ++p) {
      slot.parts[p].slot = &slot;
      slot.parts[p].index = p;
    }
    slot.next_free = std::exchange(free, &slot);
  }
  chunks[chunk_count++].reset(chunk);
  return true;
}

IoClient::Slot* IoClient::Core::acquire() noexcept {
  const std::lock_guard lock(mutex);
  if (free == nullptr && !grow_locked()) return nullptr;
  Slot* slot = free;
  free = slot->next_free;
  ++in_use;
  return slot;
}

void IoClient::Core::release(Slot& slot) noexcept {
  // Dropped last, outside all locks: it may hold the core, and the legs.
  std::shared_ptr<Core> core;
  std::array<std::shared_ptr<Place>, max_io_legs> used_places;
  IoBufferRef buffer;
  {
    const std::lock_guard lock(slot.mutex);
    core = std::move(slot.core);
    buffer = std::move(slot.buffer);
    for (std::uint32_t i = 0; i < slot.count; ++i)
      used_places[i] = std::move(slot.parts[i].place);
    slot.used = false;
    if (++slot.generation == 0) slot.generation = 1;
  }
  buffer.reset();
  const std::lock_guard lock(mutex);
  slot.next_free = std::exchange(free, &slot);
  if (--in_use == 0) quiet.notify_all();
}

void IoClient::Core::unref(Slot& slot) noexcept {
  if (slot.references.fetch_sub(1, std::memory_order_acq_rel) == 1) release(slot);
}

IoClient::Slot* IoClient::Core::find(IoHandle handle) noexcept {
  Slot* slot = nullptr;
  {
    const std::lock_guard lock(mutex);
    if (handle.generation == 0 || handle.index >= chunk_count * chunk_slots) return nullptr;
    slot = &(*chunks[handle.index / chunk_slots])[handle.index % chunk_slots];
  }
  const std::lock_guard lock(slot->mutex);
  if (!slot->used || slot->generation != handle.generation) return nullptr;
  // One that nobody refers to any more is on its way back.
  for (auto n = slot->references.load(); n != 0;)
    if (slot->references.compare_exchange_weak(n, n + 1)) return slot;
  return nullptr;
}

// --- Sending ----------------------------------------------------------------------------------

bool IoClient::Core::valid(const IoRequest& request) const noexcept {
  if (request.regions.empty() || request.regions.size() > max_io_legs) return false;
  bool bounded = false;
  unsigned seen = 0;
  for (const IoRegion& region : request.regions) {
    if (region.leg >= max_io_legs || places[region.leg] == nullptr) return false;
    if ((seen & (1U << region.leg)) != 0) return false;
    seen |= 1U << region.leg;
    bounded = bounded || region.deadline != TimePoint::max();
  }
  // I8: what may be late never touches the submitter's memory.
  const bool carries = request.op == Op::read || request.op == Op::write;
  if (bounded && (request.op == Op::extents || (carries && !request.buffer))) return false;
  return !carries || request.data != nullptr || request.buffer;
}

bool IoClient::Core::runs_here(const IoRequest& request) const noexcept {
  return std::all_of(request.regions.begin(), request.regions.end(), [&](const IoRegion& region) {
    return places[region.leg]->here && region.deadline == TimePoint::max();
  });
}

void IoClient::Core::run_here(const IoRequest& request, IoResults& results) const noexcept {
  for (std::size_t i = 0; i < request.regions.size(); ++i) {
    const IoRegion& region = request.regions[i];
    Io io;
    io.op = request.op;
    io.flags = request.flags;
    io.shard = request.shard;
    io.offset = region.offset;
    io.length = region.length;
    io.data = request.data != nullptr ? request.data : request.buffer.data();
    io.extents = request.extents;
    io.start_ns = IoAccount::start_time();
    places[region.leg]->leg->submit(io);
    results.status[i] = io.status;
    results.states[i] = io.status == Errc::ok ? RegionState::ok : RegionState::error;
  }
}

Submit IoClient::Core::refuse(const IoRequest& request, Errc why,
                              IoResults& results) const noexcept {
  for (std::size_t i = 0; i < std::min(request.regions.size(), max_io_legs); ++i) {
    results.states[i] = RegionState::cancelled;
    results.status[i] = why;
  }
  return Submit::done;
}

void IoClient::Core::fill(Slot& slot, const IoRequest& request, bool mute_second) noexcept {
  const std::lock_guard lock(slot.mutex);
  slot.used = true;
  slot.mute_second = mute_second;
  slot.cancel_on_timeout = request.cancel_on_timeout;
  slot.count = slot.waiting = static_cast<std::uint32_t>(request.regions.size());
  slot.notify = request.notify;
  slot.context = request.context;
  slot.buffer = request.buffer;
  slot.core = shared_from_this();
  slot.references.store(1 + slot.count, std::memory_order_relaxed);
  const std::uint64_t now = now_ns();
  for (std::uint32_t i = 0; i < slot.count; ++i) {
    Part& part = slot.parts[i];
    part.region = request.regions[i];
    part.place = places[part.region.leg];
    part.state = RegionState::pending;
    part.start_ns = now;
    part.out = true;
    part.in_lane = part.place->lane != nullptr;
    part.telling = part.ended = part.all_told = part.unresolved = false;
    part.io = Io{};
    part.io.op = request.op;
    part.io.flags = request.flags;
    part.io.shard = request.shard;
    part.io.offset = part.region.offset;
    part.io.length = part.region.length;
    part.io.data = request.data != nullptr ? request.data : slot.buffer.data();
    part.io.extents = request.extents;
    part.io.start_ns = IoAccount::start_time();
    part.io.complete = leg_ended;
    part.io.owner = &part;
    part.item.io = &part.io;
    part.item.done = lane_done;
    part.place->pending.fetch_add(1, std::memory_order_relaxed);
  }
  const auto first = std::min_element(
      request.regions.begin(), request.regions.end(),
      [](const IoRegion& a, const IoRegion& b) { return a.deadline < b.deadline; });
  slot.timed = first->deadline != TimePoint::max();
  if (!slot.timed) return;
  slot.references.fetch_add(1, std::memory_order_relaxed);
  wheel.arm(slot.timer, first->deadline);
}

Submit IoClient::Core::send(const IoRequest& request, IoResults& results, IoHandle* handle,
                            bool mute_second) noexcept {
  if (!valid(request)) return refuse(request, Errc::invalid, results);
  const std::size_t shard = this_thread_shard();
  if (!gate.enter(shard)) return refuse(request, Errc::shutdown, results);
  if (runs_here(request)) {
    run_here(request, results);
    gate.exit(shard);
    return Submit::done;
  }
  Slot* const slot = acquire();
  if (slot == nullptr) {
    gate.exit(shard);
    return refuse(request, Errc::limit, results);
  }
  slot->shard = shard;  // nobody else knows the slot yet
  fill(*slot, request, mute_second);
  if (handle != nullptr) *handle = slot->handle();
  // What others carry first, so that it runs while this thread does its own part.
  const std::uint32_t count = static_cast<std::uint32_t>(request.regions.size());
  for (int round = 0; round < 3; ++round)
    for (std::uint32_t i = 0; i < count; ++i) {
      Part& part = slot->parts[i];
      const Place& place = *places[request.regions[i].leg];
      const int turn = place.lane ? 0 : place.here ? 2 : 1;
      if (turn == round) send_part(part);
    }
  unref(*slot);
  return Submit::pending;
}

void IoClient::Core::send_part(Part& part) noexcept {
  // Read before it goes: afterwards the part may have ended.
  if (part.in_lane) {
    if (!part.place->lane->push(part.item)) ended(part, Errc::no_memory);
    return;
  }
  if (part.place->leg->submit(part.io) == Submit::done) ended(part, part.io.status);
}

void IoClient::Core::leg_ended(Io& io) noexcept {
  Part& part = *static_cast<Part*>(io.owner);
  part.slot->core->ended(part, io.status);
}

void IoClient::Core::lane_done(Lane::Item& item) noexcept {
  leg_ended(*item.io);
}

// --- Ends -------------------------------------------------------------------------------------

void IoClient::Core::tell(const Slot& slot, const IoNotice& notice) noexcept {
  const std::size_t shard = this_thread_shard();
  if (!telling.enter(shard)) return;  // the client is gone
  if (slot.notify != nullptr) slot.notify(notice, slot.context);
  telling.exit(shard);
}

/// After a region stopped being pending; the last one lets the request out of the gate.
void IoClient::Core::settled(Slot& slot, bool none_waits) noexcept {
  if (!none_waits) return;
  const bool timed = slot.timed;
  gate.exit(slot.shard);
  if (!timed) return;
  const std::size_t shard = this_thread_shard();
  if (!telling.enter(shard)) return;  // the client has disarmed its timers
  const bool disarmed = wheel.disarm(slot.timer);
  telling.exit(shard);
  if (disarmed) unref(slot);
}

void IoClient::Core::leave_pending_locked(Slot& slot, Part& part, RegionState state) noexcept {
  part.state = state;
  --slot.waiting;
  part.place->pending.fetch_sub(1, std::memory_order_relaxed);
}

/// What was late has ended.
void IoClient::Core::resolved_locked(Part& part) noexcept {
  part.place->late.fetch_sub(1, std::memory_order_relaxed);
  if (part.io.modifies())
    part.place->late_bytes.fetch_sub(part.region.length.value, std::memory_order_relaxed);
}

/// The leg gave it up, and its end is unknown. True: it stays late, until a fence; the region's
/// reference stays too. False: nobody is left to hear of a fence.
bool IoClient::Core::keep_unresolved_locked(Part& part) noexcept {
  if (telling.closed()) {  // the destructor looks at what is unresolved after closing it
    resolved_locked(part);
    return false;
  }
  part.unresolved = true;
  return true;
}

/// The client ends, and with it what waits for a fence.
void IoClient::Core::forget_unresolved(Slot& slot) noexcept {
  for (std::uint32_t i = 0; i < slot.count; ++i) {
    bool forgotten = false;
    {
      const std::lock_guard lock(slot.mutex);
      forgotten = std::exchange(slot.parts[i].unresolved, false);
      if (forgotten) resolved_locked(slot.parts[i]);
    }
    if (forgotten) unref(slot);
  }
}

namespace {

RegionState state_of(Errc status) noexcept {
  if (status == Errc::ok) return RegionState::ok;
  if (status == end_unknown) return RegionState::timeout;
  return status == Errc::cancelled ? RegionState::cancelled : RegionState::error;
}

}  // namespace

void IoClient::Core::ended(Part& part, Errc status) noexcept {
  Slot& slot = *part.slot;
  IoNotice notice;
  bool none_waits = false, tells = true;
  const bool unknown = status == end_unknown;
  // Late from here on, and told so; below it is kept that way.
  if (unknown && !options.owner_keeps_unknown) give_up(slot, part, RegionState::timeout, false);
  {
    const std::lock_guard lock(slot.mutex);
    part.out = false;
    notice = {slot.handle(), part.index, part.region.leg, state_of(status), status, true, false};
    if (part.state == RegionState::pending) {
      leave_pending_locked(slot, part, notice.state);
      none_waits = slot.waiting == 0;
    } else if (part.telling) {
      // The thread that tells of its lateness tells of its end too, and drops its reference.
      part.ended = true;
      part.end_status = status;
      return;
    } else if (unknown && !options.owner_keeps_unknown) {
      if (keep_unresolved_locked(part)) return;
      tells = false;
    } else {
      resolved_locked(part);
      notice.second = true;
      tells = !slot.mute_second && !std::exchange(part.all_told, true);
    }
  }
  if (tells) tell(slot, notice);
  settled(slot, none_waits);
  unref(slot);
}

/// Ends a pending region before its leg does: as TIMEOUT or CANCELLED. Taken back from the lane it
/// is over; else the leg still has it. False: it was not pending any more.
bool IoClient::Core::give_up(Slot& slot, Part& part, RegionState state, bool take_unsent) noexcept {
  IoNotice notice;
  bool none_waits = false, over_limit = false, unsent = false, tells = false;
  {
    const std::lock_guard lock(slot.mutex);
    if (part.state != RegionState::pending) return false;
    unsent = take_unsent && part.in_lane && part.place->lane->take_back(part.item);
    if (unsent) {
      state = RegionState::cancelled;
      part.out = false;
    } else {
      part.telling = true;
      part.place->late.fetch_add(1, std::memory_order_relaxed);
      if (part.io.modifies()) {
        const std::uint64_t length = part.region.length.value;
        const std::uint64_t bound = part.place->options.late_limit.value;
        const std::uint64_t before =
            part.place->late_bytes.fetch_add(length, std::memory_order_relaxed);
        over_limit = before <= bound && before + length > bound;
      }
    }
    leave_pending_locked(slot, part, state);
    none_waits = slot.waiting == 0;
    notice = {slot.handle(),
              part.index,
              part.region.leg,
              state,
              state == RegionState::timeout ? Errc::timed_out : Errc::cancelled,
              unsent,
              false};
  }
  tell(slot, notice);
  if (over_limit && options.late_limit != nullptr) {
    const std::size_t shard = this_thread_shard();
    if (telling.enter(shard)) {
      options.late_limit(options.owner, part.region.leg);
      telling.exit(shard);
    }
  }
  bool ended_meanwhile = false;
  if (!unsent) {
    const std::lock_guard lock(slot.mutex);
    part.telling = false;
    ended_meanwhile = part.ended;
    if (ended_meanwhile && part.end_status == end_unknown && !options.owner_keeps_unknown) {
      ended_meanwhile = !keep_unresolved_locked(part);
    } else if (ended_meanwhile) {
      resolved_locked(part);
      notice.state = state_of(part.end_status);
      notice.status = part.end_status;
      notice.final = notice.second = true;
      tells = !slot.mute_second && !std::exchange(part.all_told, true);
    }
  }
  if (tells) tell(slot, notice);
  // The slot is held, so that the leg may look at the Io during the call.
  if (!unsent && !ended_meanwhile && part.place->remote != nullptr && take_unsent)
    part.place->remote->cancel(part.io);
  settled(slot, none_waits);
  if (unsent || ended_meanwhile) unref(slot);  // the region's own
  return true;
}

void IoClient::Core::timer_fired(DeadlineWheel::Node& node) noexcept {
  Slot& slot = *static_cast<Slot*>(node.owner);
  Core& core = *slot.core;  // the timer's reference keeps it
  core.deadline_passed(slot, Clock::now());
}

void IoClient::Core::deadline_passed(Slot& slot, TimePoint now) noexcept {
  for (std::uint32_t i = 0; i < slot.count; ++i)
    if (slot.parts[i].region.deadline <= now)
      give_up(slot, slot.parts[i], RegionState::timeout, slot.cancel_on_timeout);
  bool armed = false;
  const std::size_t shard = this_thread_shard();
  if (telling.enter(shard)) {
    const std::lock_guard lock(slot.mutex);
    TimePoint next = TimePoint::max();
    for (std::uint32_t i = 0; i < slot.count; ++i)
      if (slot.parts[i].state == RegionState::pending)
        next = std::min(next, slot.parts[i].region.deadline);
    armed = next != TimePoint::max();
    if (armed) wheel.arm(slot.timer, next);
    telling.exit(shard);
  }
  if (!armed) unref(slot);
}

/// The proof of a fence ends what is late, or was pending, for whoever is told.
bool IoClient::Core::fence_part(Slot& slot, Part& part, Errc status) noexcept {
  give_up(slot, part, RegionState::cancelled, true);
  IoNotice notice;
  bool unresolved = false, tells = false;
  {
    const std::lock_guard lock(slot.mutex);
    unresolved = std::exchange(part.unresolved, false);
    if (part.telling || (!part.out && !unresolved)) return false;
    if (unresolved) resolved_locked(part);
    tells = !slot.mute_second && !std::exchange(part.all_told, true);
    notice = {slot.handle(), part.index, part.region.leg, RegionState::error, status, true, true};
  }
  if (tells) tell(slot, notice);
  if (unresolved) unref(slot);
  return true;
}

}  // namespace blockloom
