// The legs' sessions: fences, what opens them anew, and what is heard of their links.
#include <fmt/format.h>

#include "server/base/log.hpp"
#include "server/leg/uri.hpp"
#include "server/target/mirror/mirror_batch.hpp"

namespace blockloom::mirror {
namespace {

// What a fence and the opening of a session get before the machine is told to try again.
constexpr Duration fence_patience = std::chrono::seconds(5);
constexpr Duration open_patience = std::chrono::seconds(10);

}  // namespace

void Mirror::do_fence(unsigned number) noexcept {
  Place& place = places_[number];
  RemoteLeg* remote = nullptr;
  std::uint64_t epoch = 0;
  FenceScope scope = FenceScope::own;
  {
    const std::lock_guard lock(mutex_);
    if (!place.fence.wanted) return;
    epoch = place.fence.epoch;
    if (place.fence.vouched)
      scope = FenceScope::vouched;
    else if (!place.fenced_once)
      scope = FenceScope::everyone;
  }
  if (place.leg == nullptr && !reopen(number)) {
    fence_answered(number, {Proof::not_yet, place.trouble});
    return;
  }
  remote = place.remote;
  if (remote == nullptr) {
    // A local leg's proof: every op has ended, which check_fence() waits for.
    fence_answered(number, {Proof::given, {}});
    return;
  }
  // What the machine gave out before has to be on its way first, so that the fence covers it.
  place.fence_waits.store(true);
  if (place.in_hand.load() != 0) return;  // the last one posts this again
  if (!place.fence_waits.exchange(false)) return;
  remote->fence(epoch, scope, Clock::now() + fence_patience, [this, number](FenceResult result) {
    post_call([this, number, result = std::move(result)] { fence_answered(number, result); });
  });
}

void Mirror::fence_answered(unsigned number, FenceResult result) noexcept {
  Place& place = places_[number];
  bool again = false, give_up = false;
  {
    const std::lock_guard lock(mutex_);
    if (!place.fence.wanted || place.fence.answered) return;
    // S2: `force` in the table is a person's word for the legs that can give no proof at the start.
    if (result.proof == Proof::impossible && spec_.force && !serving_ && !place.fence.vouched) {
      log_warning(fmt::format("mirror: {}; taken for fenced, because the table says force",
                              public_uri(result.reason)));
      place.fence.vouched = again = true;
      result.proof = Proof::not_yet;
    }
    place.trouble = result.reason;
    if (result.proof == Proof::given) {
      place.fence.end = FenceEnd::proof;
      place.fenced_once = place.remote != nullptr;
    } else if (result.proof == Proof::impossible) {
      place.fence.end = FenceEnd::none;
      give_up = place.remote != nullptr && place.out > 0;
    } else {
      // What is out is waited for: giving it up would spend the proof that may yet come. The same
      // fence is joined again.
      place.fence.end = FenceEnd::retry;
      again = again || (place.out > 0 && place.remote != nullptr);
    }
    if (!again) {
      place.fence.answered = true;
      place.proof_waits.store(true);
    }
  }
  if (again) {
    Action action;
    action.type = Action::Type::fence;
    action.leg = static_cast<std::uint8_t>(number);
    post(action);
    return;
  }
  if (give_up) place.remote->abandon({Errc::io, result.reason});
  check_fence(number);
}

/// The machine hears of a fence's end when every op that it sent before has been reported ended.
void Mirror::check_fence(unsigned number) noexcept {
  Place& place = places_[number];
  if (!place.proof_waits.load(std::memory_order_relaxed)) return;
  FenceEnd end = FenceEnd::proof;
  {
    const std::lock_guard lock(mutex_);
    if (!place.fence.answered || place.out != 0) return;
    end = place.fence.end;
    place.fence.wanted = place.fence.answered = false;
    place.proof_waits.store(false);
  }
  visit(Event::fence_ended(now_ns(), number, end), false);
}

void Mirror::do_open(unsigned number, std::uint64_t epoch) noexcept {
  Place& place = places_[number];
  if (place.leg == nullptr && !reopen(number)) {
    visit(Event::opened(now_ns(), number, false), true);
    return;
  }
  if (place.remote == nullptr) {
    const auto ready = place.leg->ready();
    {
      const std::lock_guard lock(mutex_);
      place.trouble = ready ? std::string() : ready.error().message;
      place.read_failed = place.read_failed && !ready;
    }
    visit(Event::opened(now_ns(), number, static_cast<bool>(ready)), true);
    return;
  }
  if (place.next != nullptr)
    open_next(number, epoch);
  else
    open_session(number, epoch);
}

void Mirror::open_session(unsigned number, std::uint64_t epoch) noexcept {
  places_[number].remote->open_session(
      epoch, Clock::now() + open_patience, [this, number](Result<void> opened) {
        {
          const std::lock_guard lock(mutex_);
          Place& p = places_[number];
          p.trouble = opened ? std::string() : opened.error().message;
          p.read_failed = p.read_failed && !opened;
        }
        visit(Event::opened(now_ns(), number, static_cast<bool>(opened)), false);
      });
}

/// The old leg has given the proof, and nothing of it is out: the new one begins. It has sent
/// nothing yet, which is its own proof.
void Mirror::open_next(unsigned number, std::uint64_t epoch) noexcept {
  Place& place = places_[number];
  MirrorSpec mirror;
  WantedLeg next;
  {
    const std::lock_guard lock(mutex_);
    mirror = spec_;
    next = {place.spec, std::exchange(place.next, nullptr), {}};
  }
  place.remote->release();
  if (auto r = put_leg(number, next, mirror); !r) {
    {
      const std::lock_guard lock(mutex_);
      place.trouble = r.error().message;
    }
    return visit(Event::opened(now_ns(), number, false), true);
  }
  {
    const std::lock_guard lock(mutex_);
    place.fenced_once = true;
  }
  place.remote->fence(epoch, FenceScope::own, Clock::now() + fence_patience,
                      [this, number, epoch](FenceResult result) {
                        if (result.proof == Proof::given) return open_session(number, epoch);
                        visit(Event::opened(now_ns(), number, false), false);
                      });
}

/// A leg that could not be opened when its table was loaded is tried again. Only those that need
/// nothing of the registry can be.
bool Mirror::reopen(unsigned number) {
  LegSpec spec;
  {
    const std::lock_guard lock(mutex_);
    spec = places_[number].spec;
  }
  LegContext context;
  auto leg = open_leg(spec.uri, false, context);
  std::string trouble;
  if (!leg) {
    trouble = leg.error().message;
  } else if (to_bytes(spec.offset) + size_ > (*leg)->size()) {
    trouble = fmt::format("leg '{}' is too small: it has {} bytes, and the mirror needs {}",
                          spec.uri, (*leg)->size().value, (to_bytes(spec.offset) + size_).value);
  } else {
    MirrorSpec mirror;
    {
      const std::lock_guard lock(mutex_);
      mirror = spec_;
    }
    if (auto r = put_leg(number, {spec, *leg, {}}, mirror); r)
      return true;
    else
      trouble = r.error().message;
  }
  const std::lock_guard lock(mutex_);
  places_[number].trouble = std::move(trouble);
  return false;
}

void Mirror::Link::link_lost(RemoteLeg&, const Error& reason) noexcept {
  {
    const std::lock_guard lock(mirror_.mutex_);
    mirror_.places_[place_].trouble = reason.message;
  }
  mirror_.visit(Event::leg_lost(now_ns(), place_), false);
}

}  // namespace blockloom::mirror
