// How a region travels. See io_slot.hpp for who protects what.
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

}  // namespace blockloom
