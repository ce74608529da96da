// How a region ends: by its leg, by the clock, by hand, by a fence. See io_slot.hpp for who
// protects what.
#include <algorithm>

#include "server/io/io_slot.hpp"

namespace blockloom {

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
