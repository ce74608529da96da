// What may block or take long: the mirror's own thread. mirror_sessions.cpp is what it does with
// the legs.
#include <cstring>

#include <fmt/format.h>

#include "server/base/fork_point.hpp"
#include "server/base/log.hpp"
#include "server/base/thread.hpp"
#include "server/leg/uri.hpp"
#include "server/target/mirror/mirror_batch.hpp"

namespace blockloom::mirror {

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
