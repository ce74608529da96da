// A mirror's control: the fence ladder, sessions by epoch, cancelling.
//
// The ladder. Over a live session: ABORT TASK for each of a few commands, else LUN RESET. Over a
// new one, logged in with the same ISID, which ends the old session's commands (RFC 7143 6.3.5):
// LUN RESET again, because some targets (tgt) let the login in before the old session's commands
// have ended, and answer the reset only after. Where a target knows no LUN RESET, TARGET WARM
// RESET. Silence and refusals prove nothing.
#include <algorithm>

#include <fmt/format.h>

#include "server/base/log.hpp"
#include "server/leg/iscsi_core.hpp"
#include "server/leg/late_writes.hpp"

namespace blockloom {
namespace {

constexpr Duration abort_step = std::chrono::seconds(2);
constexpr std::size_t most_single_aborts = 16;

std::string_view to_string(iscsi::TaskResponse response) {
  using iscsi::TaskResponse;
  switch (response) {
    case TaskResponse::complete:
      return "complete";
    case TaskResponse::no_task:
      return "task does not exist";
    case TaskResponse::no_lun:
      return "LUN does not exist";
    case TaskResponse::not_supported:
      return "not supported";
    case TaskResponse::not_authorized:
      return "not authorized";
    default:
      return "rejected";
  }
}

}  // namespace

RemoteLeg::Traits IscsiCore::traits() const noexcept {
  const Lock lock(mutex_);
  return {true, disk_.write_cache};
}

Result<void> IscsiCore::take_control(RemoteLeg& self, LinkListener& listener) {
  const Lock lock(mutex_);
  if (controlled_)
    return Error{Errc::busy, fmt::format("leg {} belongs to a mirror already", quoted(name_))};
  controlled_ = true;
  self_ = &self;
  listener_ = &listener;
  open_ = flowing_ = false;
  stop_requests();
  if (session_) session_->close({Errc::shutdown, "a mirror takes control"});
  if (thread_.joinable()) poke();
  return {};
}

void IscsiCore::fence(std::uint64_t epoch, FenceScope scope, TimePoint deadline,
                      RemoteLeg::FenceDone done) {
  {
    const Lock lock(mutex_);
    const bool refused = !controlled_ || epoch < epoch_ || stopping_;
    try {
      start_thread();
    } catch (const std::exception&) {
      // No thread can be had: told below, in the caller.
    }
    if (!refused && thread_.joinable()) {
      open_ = false;
      flowing_ = false;
      end_opening(Error{Errc::busy, "a fence takes its place"});
      end_fence(Proof::not_yet, "another fence takes its place");
      // One that goes on behind has come as far as it has: this one joins it.
      const bool joins = fence_.has_value() && fence_->scope >= scope;
      const bool same = epoch == epoch_ && proven_epoch_ == epoch && proven_scope_ >= scope;
      epoch_ = epoch;
      if (!joins) {
        fence_ = Fence();  // clang 14 has no emplace() for a nested type with initializers
        fence_->scope = scope;
      }
      fence_->epoch = epoch;
      fence_->deadline = deadline;
      fence_->done = std::move(done);
      if (same) fence_proven();
      poke();
      return;
    }
  }
  done({Proof::impossible,
        fmt::format("leg {}: {}", quoted(name_),
                    controlled_ ? "the epoch is lower than one before, or the leg is closed"
                                : "nobody has control of it")});
}

void IscsiCore::open_session(std::uint64_t epoch, TimePoint deadline, RemoteLeg::OpenDone done) {
  {
    const Lock lock(mutex_);
    if (controlled_ && !stopping_ && proven_epoch_ == epoch && thread_.joinable()) {
      end_opening(Error{Errc::busy, "another opening takes its place"});
      opening_ = Opening{epoch, deadline, std::move(done)};
      poke();
      return;
    }
  }
  done(Error{Errc::invalid, fmt::format("leg {}: there is no proof of a fence with epoch {}",
                                        quoted(name_), epoch)});
}

Cancel IscsiCore::cancel(Io& io) noexcept {
  const Lock lock(mutex_);
  const auto found = std::find_if(active_.begin(), active_.end(),
                                  [&](const IscsiRequest& r) { return r.io == &io; });
  if (found == active_.end()) return Cancel::gone;
  IscsiRequest& request = *found;
  const bool over = stop_request(request);
  // What was queued in the session ends on the leg's thread.
  bool out = false;
  for (IscsiCommand& command : commands_)
    if (!over && command.request == &request && command.inside &&
        command.end != IscsiTask::End::unsent) {
      out = true;
      abort_command(command);
    }
  if (session_) session_->send();
  poke();
  return out ? Cancel::asked : Cancel::never_sent;
}

void IscsiCore::abandon(const Error& reason) noexcept {
  const Lock lock(mutex_);
  open_ = flowing_ = false;
  if (session_) session_->close(reason);
  end_opening(Error{Errc::cancelled, reason.message});
  if (thread_.joinable()) poke();
}

void IscsiCore::release() noexcept {
  {
    const Lock lock(mutex_);
    if (!controlled_) return;
    open_ = flowing_ = false;
    end_opening(Error{Errc::shutdown, "released"});
    end_fence(Proof::not_yet, "released");
    fence_.reset();
    listener_ = nullptr;
  }
  stop();
  const Lock lock(mutex_);
  controlled_ = false;
}

std::string IscsiCore::link_state() const {
  const Lock lock(mutex_);
  const std::string where = portal_text(uri_);
  if (fence_) {
    using Stage = Fence::Stage;
    static constexpr std::string_view stages[] = {"begins",         "aborts its commands",
                                                  "resets the LUN", "resets the target",
                                                  "reads the LUN",  "logs in again"};
    return fmt::format("fencing {} (epoch {}): {}{}{}", where, fence_->epoch,
                       stages[static_cast<std::size_t>(fence_->stage)],
                       last_error_.empty() ? "" : ": ", last_error_);
    static_assert(static_cast<std::size_t>(Stage::relogin) + 1 == std::size(stages));
  }
  if (session_ && (open_ || !controlled_))
    return controlled_ ? fmt::format("connected to {} (epoch {})", where, epoch_)
                       : fmt::format("connected to {}", where);
  if (connector_ || opening_)
    return fmt::format("connecting to {}{}{}", where, last_error_.empty() ? "" : ": ", last_error_);
  if (proven_epoch_) return fmt::format("fenced (epoch {})", *proven_epoch_);
  if (!last_error_.empty()) return fmt::format("lost: {}", last_error_);
  return "not connected";
}

/// Null once release() has begun: what was still on its way to the listener is dropped.
LinkListener* IscsiCore::listener_now() const noexcept {
  const Lock lock(mutex_);
  return listener_;
}

// --- On the leg's thread, under the lock ------------------------------------------------------

void IscsiCore::end_fence(Proof proof, std::string reason) noexcept {
  if (!fence_ || !fence_->done) return;
  callbacks_.push_back([done = std::move(fence_->done),
                        result = FenceResult{proof, std::move(reason)}] { done(result); });
  fence_->done = nullptr;
}

void IscsiCore::end_opening(Result<void> result) noexcept {
  if (!opening_) return;
  callbacks_.push_back(
      [done = std::move(opening_->done), result = std::move(result)] { done(result); });
  opening_.reset();
}

/// The proof is there, and everything of before has ended: completions run before `done`.
void IscsiCore::fence_proven() noexcept {
  unresolved_ = false;
  proven_epoch_ = fence_->epoch;
  proven_scope_ = fence_->scope;
  end_fence(Proof::given, {});
  fence_.reset();
}

void IscsiCore::control_step(TimePoint now) noexcept {
  if (!controlled_) return;
  if (fence_) fence_step(now);
  if (fence_ && fence_->done && now >= fence_->deadline) {
    const std::string why = !fence_->trouble.empty() ? fence_->trouble
                            : !last_error_.empty()   ? last_error_
                                                     : std::string("the target has not answered");
    end_fence(Proof::not_yet, fmt::format("{}: {}", portal_text(uri_), why));
  }
  if (!opening_ || fence_) return;
  if (session_ && session_->state() == IscsiSession::State::ready) {
    open_ = flowing_ = true;
    // From here on something can be sent: the next session needs a proof of its own.
    proven_epoch_.reset();
    callbacks_.push_back([this, epoch = opening_->epoch] {
      if (LinkListener* const listener = listener_now()) listener->link_up(*self_, epoch);
    });
    end_opening({});
  } else if (now >= opening_->deadline) {
    end_opening(Error{Errc::timed_out,
                      fmt::format("{}: {}", portal_text(uri_),
                                  last_error_.empty() ? "no session in time" : last_error_)});
  }
}

bool IscsiCore::every_answer_is_in() const noexcept {
  return std::none_of(commands_.begin(), commands_.end(),
                      [](const IscsiCommand& c) { return c.inside; });
}

/// A reset has ended them: no answer will come.
void IscsiCore::forget_unanswered() noexcept {
  for (IscsiCommand& command : commands_)
    if (command.inside) session_->forget(command);
  if (capacity_.inside) session_->forget(capacity_);
}

void IscsiCore::fence_reset(Fence::Stage stage) noexcept {
  fence_->stage = stage;
  fence_->step_deadline = TimePoint::max();
  fence_->tag =
      session_->manage(stage == Fence::Stage::lun_reset ? iscsi::TaskFunction::logical_unit_reset
                                                        : iscsi::TaskFunction::target_warm_reset);
  // Full of aborts that the target does not answer: the next session has room.
  if (fence_->tag == 0)
    return session_->close({Errc::limit, "the target does not answer task management"});
  session_->send();
}

void IscsiCore::fence_begin(TimePoint now) noexcept {
  using Stage = Fence::Stage;
  stop_requests();
  drain();
  if (fence_->scope == FenceScope::vouched) {
    if (session_) return session_->close({Errc::cancelled, "a person vouches for it"});
    return fence_proven();
  }
  const bool live = session_ && session_->state() == IscsiSession::State::ready;
  const bool own = fence_->scope == FenceScope::own;
  if (own && !unresolved_ && (!session_ || every_answer_is_in())) return fence_proven();
  if (!live) {
    fence_->stage = Stage::relogin;
    return;
  }
  if (!own || unresolved_ || session_->unanswered() > most_single_aborts)
    return fence_reset(Stage::lun_reset);
  fence_->stage = Stage::aborting;
  fence_->step_deadline = now + abort_step;
  for (IscsiCommand& command : commands_)
    if (command.inside) abort_command(command);
  session_->send();
}

void IscsiCore::fence_step(TimePoint now) noexcept {
  using Stage = Fence::Stage;
  const bool live = session_ && session_->state() == IscsiSession::State::ready;
  switch (fence_->stage) {
    case Stage::begin:
      return fence_begin(now);
    case Stage::aborting:
      if (live && every_answer_is_in()) return fence_proven();
      if (live && now >= fence_->step_deadline) return fence_reset(Stage::lun_reset);
      break;
    case Stage::settling:
      // What the reset has ended leaves the session, and completes, before the question comes in.
      if (live && !fence_->asked && every_answer_is_in() && session_->has_room()) {
        // The reset's unit attention is taken here, not by the first request.
        fence_->asked = true;
        probe_ = std::make_unique<DiskProbe>(*session_);
        probe_->begin();
      }
      if (live && fence_->asked && !probe_) return fence_proven();
      break;
    case Stage::relogin:
      if (live) return fence_reset(Stage::lun_reset);
      return;
    case Stage::lun_reset:
    case Stage::target_reset:
      break;
  }
  // The session broke on the way: a new one, as often as it takes.
  if (!session_) {
    fence_->stage = Stage::relogin;
    fence_->step_deadline = TimePoint::max();
    fence_->tag = 0;
  }
}

/// What the target says to the reset of the fence.
void IscsiCore::fence_answered(iscsi::TaskResponse response) noexcept {
  using Stage = Fence::Stage;
  const bool lun = fence_->stage == Stage::lun_reset;
  if (response == iscsi::TaskResponse::complete) {
    forget_unanswered();
    unresolved_ = false;
    fence_->stage = Stage::settling;
    fence_->asked = false;
    return;
  }
  fence_->trouble = fmt::format("the target answers {} RESET with \"{}\"",
                                lun ? "LUN" : "TARGET WARM", to_string(response));
  if (lun) return fence_reset(Stage::target_reset);
  // Neither is granted: no proof can be had here.
  end_fence(Proof::impossible, fmt::format("{}: {}, and LUN RESET was refused too",
                                           portal_text(uri_), fence_->trouble));
  fence_.reset();
}

void IscsiCore::abort_command(IscsiCommand& command) noexcept {
  if (command.abort_tag != 0 || !session_) return;
  command.abort_tag = session_->manage(iscsi::TaskFunction::abort_task, &command);
}

void IscsiCore::take_managed(const IscsiSession::Managed& managed) noexcept {
  using iscsi::TaskResponse;
  if (managed.tag == settle_tag_) {
    settle_tag_ = 0;
    unresolved_ = false;
    LateWrites::get().clear(storage_);
    flowing_ = true;
    if (managed.response != TaskResponse::complete)
      log_warning(
          fmt::format("leg {}: LUN RESET after a lost session: \"{}\"; the login alone has "
                      "ended its commands",
                      quoted(name_), to_string(managed.response)));
    return;
  }
  if (fence_ && managed.tag == fence_->tag) {
    fence_->tag = 0;
    return fence_answered(managed.response);
  }
  for (IscsiCommand& command : commands_) {
    if (command.abort_tag != managed.tag || !command.inside) continue;
    // "Task does not exist" is no proof: its answer is on the way, or lost.
    if (managed.response == TaskResponse::complete) session_->forget(command);
    return;
  }
}

}  // namespace blockloom
