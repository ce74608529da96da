// What may block or take long: the mirror's own thread, and what it does with the legs.
#include <algorithm>
#include <cstring>

#include <fmt/format.h>

#include "server/base/fork_point.hpp"
#include "server/base/log.hpp"
#include "server/base/thread.hpp"
#include "server/leg/uri.hpp"
#include "server/target/mirror/mirror_batch.hpp"

namespace blockloom::mirror {
namespace {

// What a fence and the opening of a session get before the machine is told to try again.
constexpr Duration fence_patience = std::chrono::seconds(5);
constexpr Duration open_patience = std::chrono::seconds(10);

}  // namespace

// --- The thread -------------------------------------------------------------------------------

void Mirror::post(const Action& action) noexcept {
  {
    const std::lock_guard lock(work_mutex_);
    actions_.push_back(action);
    work_there_.notify_one();
  }
  ensure_worker();
}

void Mirror::post_call(std::function<void()> call) {
  {
    const std::lock_guard lock(work_mutex_);
    calls_.push_back(std::move(call));
    work_there_.notify_one();
  }
  ensure_worker();
}

/// Before the process has forked there is none: whoever waits for the mirror then does its work.
void Mirror::ensure_worker() noexcept {
  const std::lock_guard lock(work_mutex_);
  if (worker_.joinable() || stopping_ || !threads_may_start()) return;
  try {
    worker_ = std::thread([self = shared_from_this()] { self->work(); });
  } catch (const std::exception& e) {
    log_error(fmt::format("mirror: no thread for its work: {}", e.what()));
  }
}

void Mirror::work() noexcept {
  set_thread_name("bl-mirror");
  block_signals();
  for (;;) {
    {
      std::unique_lock lock(work_mutex_);
      work_there_.wait(
          lock, [&] { return stopping_ || tick_due_ || !actions_.empty() || !calls_.empty(); });
      if (stopping_ && !tick_due_ && actions_.empty() && calls_.empty()) {
        worker_ended_ = true;
        work_there_.notify_all();
        return;
      }
    }
    work_once();
  }
}

/// Does one thing that waits; false: nothing does.
bool Mirror::work_once() {
  std::function<void()> call;
  Action action;
  bool tick = false, act = false;
  {
    const std::lock_guard lock(work_mutex_);
    tick = std::exchange(tick_due_, false);
    if (!tick && !actions_.empty()) {
      act = true;
      action = actions_.front();
      actions_.pop_front();
    } else if (!tick && !calls_.empty()) {
      call = std::move(calls_.front());
      calls_.pop_front();
    }
  }
  if (tick) {
    const std::lock_guard lock(mutex_);
    armed_at_ = never;
  }
  if (tick)
    visit(Event::tick(now_ns()), true);
  else if (act)
    do_action(action);
  else if (call)
    call();
  return tick || act || call;
}

void Mirror::arm_locked() noexcept {
  const Time due = state_->next_deadline();
  if (due >= armed_at_) return;  // it rings earlier, and that is harmless
  if (armed_ != fired_.load()) {
    if (!wheel_->disarm(timer_)) return;  // it rings now: its tick arms anew
    fired_.fetch_add(1);
  }
  armed_at_ = due;
  ++armed_;
  wheel_->arm(timer_, TimePoint(std::chrono::nanoseconds(due)));
}

void Mirror::do_action(const Action& action) noexcept {
  switch (action.type) {
    case Action::Type::send: {
      const BatchHold hold;
      hold->may_block = true;
      hold->actions.add(Action::Type::send) = action;
      run(*hold);
      break;
    }
    case Action::Type::commit: {
      const BatchHold hold;
      hold->may_block = true;
      commit(*hold);
      run(*hold);
      break;
    }
    case Action::Type::fence: {
      {
        const std::lock_guard lock(mutex_);
        auto& fence = places_[action.leg].fence;
        if (action.value != 0)
          fence = {true, false, action.vouched, action.value, FenceEnd::proof, 0};
      }
      do_fence(action.leg);
      break;
    }
    case Action::Type::open:
      do_open(action.leg, action.value);
      break;
    case Action::Type::close:
      // The place is emptied when the table that dropped the leg goes live.
      break;
    case Action::Type::compare:
      do_compare(action);
      break;
    case Action::Type::notice:
      do_notice(action);
      break;
    default:
      break;
  }
}

// --- Fences -----------------------------------------------------------------------------------

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

// --- Comparing, and telling people ------------------------------------------------------------

void Mirror::do_compare(const Action& action) noexcept {
  LegMask differ = 0;
  std::array<IoBufferRef, max_legs> reads;
  std::uint64_t length = 0;
  {
    const std::lock_guard lock(mutex_);
    reads = slots_[action.slot].own;
    length = slots_[action.slot].length;
  }
  const std::byte* first = nullptr;
  for (unsigned leg = 0; leg < max_legs; ++leg) {
    if ((action.mask & leg_bit(leg)) == 0) continue;
    if (first == nullptr)
      first = reads[leg].data();
    else if (!reads[leg] || std::memcmp(first, reads[leg].data(), length) != 0)
      differ = static_cast<LegMask>(differ | leg_bit(leg));
  }
  visit(Event::compared(now_ns(), action.slot, differ), true);
}

void Mirror::do_notice(const Action& action) noexcept {
  std::string leg, state, trouble;
  {
    const std::lock_guard lock(mutex_);
    Place& place = places_[action.leg];
    leg = public_uri(place.spec.uri);
    trouble = place.trouble;
    state = to_string(static_cast<LegState>(action.value));
    // Told again with each region that is copied meanwhile: people hear of it once.
    if (action.notice == Notice::leg_in_sync && std::exchange(place.told_in_sync, true)) return;
    if (action.notice == Notice::leg_state) place.told_in_sync = false;
  }
  const auto about = [&](std::string_view what) {
    return fmt::format("mirror: leg '{}' {}", leg, what);
  };
  switch (action.notice) {
    case Notice::leg_state:
      log_info(about(trouble.empty() ? fmt::format("is {}", state)
                                     : fmt::format("is {}: {}", state, trouble)));
      break;
    case Notice::leg_in_sync:
      log_info(about("is in sync"));
      break;
    case Notice::leg_slow:
      log_warning(about("did not answer in time"));
      break;
    case Notice::leg_error:
      log_warning(
          about(fmt::format("failed at byte {}: {}", action.offset, to_string(action.errc))));
      break;
    case Notice::leg_needed:
      log_warning(about("was failed by hand, and is in service again: the others do not hold all"));
      break;
    case Notice::all_failed:
      log_error(fmt::format("mirror: no leg can serve byte {}", action.offset));
      break;
    case Notice::hard_limit:
      log_error(
          about(fmt::format("is the last one at byte {}, and does not answer", action.offset)));
      break;
    case Notice::scrub_mismatch:
      log_warning(about(fmt::format("differs at byte {}, {} bytes", action.offset, action.length)));
      break;
    case Notice::scrub_finished:
      log_info(fmt::format("mirror: scrubbed, {} mismatches", action.value));
      break;
    case Notice::log_failed:
      log_error("mirror: the log cannot be written; requests that need it wait");
      break;
    default:
      log_info(fmt::format("mirror: {}", to_string(action.notice)));
      break;
  }
}

}  // namespace blockloom::mirror
