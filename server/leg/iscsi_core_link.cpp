// The leg's thread: it connects, receives, keeps time, and completes.
#include <algorithm>
#include <cassert>
#include <cerrno>

#include <fmt/format.h>
#include <poll.h>
#include <unistd.h>

#include "server/base/log.hpp"
#include "server/base/thread.hpp"
#include "server/leg/iscsi_core.hpp"
#include "server/leg/late_writes.hpp"

namespace blockloom {
namespace {

/// How long an expired command may take to be aborted before the session is dropped for it.
constexpr Duration abort_patience = std::chrono::seconds(2);
/// How long silence is borne while a fence waits for a target.
constexpr Duration fence_patience = std::chrono::seconds(2);
constexpr Duration goodbye_patience = std::chrono::milliseconds(500);

}  // namespace

void IscsiCore::start_thread() {
  if (thread_.joinable() || stopping_) return;
  thread_ = std::thread([self = shared_from_this()] { self->run(); });
}

void IscsiCore::poke() const noexcept {
  const std::uint64_t one = 1;
  // A counter that is full wakes as well.
  static_cast<void>(!write(event_fd_, &one, sizeof one));
}

/// Whether the thread sleeps on something that has changed.
bool IscsiCore::must_poke() const noexcept {
  if (!session_) return !connector_ || stopping_;
  if (session_->state() == IscsiSession::State::closed || !finished_.empty()) return true;
  if (!active_.empty() && active_.front().deadline < wake_) return true;
  return (session_->events() & ~polled_) != 0;
}

void IscsiCore::stop() noexcept {
  {
    const Lock lock(mutex_);
    stopping_ = true;
    if (left_alone_) return;
    if (session_ && !active_.empty()) session_->close({Errc::shutdown, "the leg is closed"});
    if (!thread_.joinable()) {
      // Nothing was ever sent; nobody else is here.
      stop_requests();
      session_.reset();
      return;
    }
    // The leg was let go by a completion that runs here: the thread then ends by itself.
    if (thread_.get_id() == std::this_thread::get_id()) {
      left_alone_ = true;
      thread_.detach();  // tidy: it cannot join itself, and holds what it uses
      return;
    }
  }
  poke();
  thread_.join();
}

void IscsiCore::run() noexcept {
  set_thread_name("iscsi-leg");
  block_signals();
  Lock lock(mutex_);
  for (;;) {
    const TimePoint until = work();
    if (run_finished(lock)) continue;
    if (stopping_ && active_.empty() && callbacks_.empty()) break;
    wait(lock, until);
  }
  say_goodbye(lock);
}

/// Does all that is due; when there will be more.
TimePoint IscsiCore::work() noexcept {
  TimePoint now = Clock::now();
  for (int i = 0; i < 4; ++i) {
    drain();
    if (session_ && session_->state() == IscsiSession::State::closed) {
      drain();
      session_ended(now);
    }
    if (stopping_) stop_requests();
    expire(now);
    keep_alive(now);
    control_step(now);
    if (!session_ || session_->state() != IscsiSession::State::closed) break;
  }
  connect_step(now);
  if (check_capacity_ && flowing_ && session_ && !capacity_.inside && session_->has_room()) {
    check_capacity_ = false;
    capacity_.kind = IscsiCommand::Kind::capacity;
    capacity_.cdb = disk::read_capacity_16(32);
    capacity_.direction = IscsiTask::Direction::in;
    capacity_.data = capacity_.parameters.data();
    capacity_.length = 32;
    capacity_.inside = true;
    session_->start(capacity_);
  }
  pump();
  // What pump() broke is seen at once.
  if (session_ && session_->state() == IscsiSession::State::closed) return now;
  return next_wake(now);
}

/// Completes what has ended, without the lock. False: there was nothing.
bool IscsiCore::run_finished(Lock& lock) noexcept {
  if (finished_.empty() && callbacks_.empty()) return false;
  Requests finished;
  finished.splice(finished.end(), finished_);
  std::vector<std::function<void()>> callbacks;
  callbacks.swap(callbacks_);
  lock.unlock();
  for (const IscsiRequest& request : finished)
    finish_(*request.io, request.status);
  for (const auto& callback : callbacks)
    callback();
  lock.lock();
  idle_.splice(idle_.end(), finished);
  return true;
}

void IscsiCore::wait(Lock& lock, TimePoint until) noexcept {
  pollfd fds[2] = {{event_fd_, POLLIN, 0}, {-1, 0, 0}};
  if (connector_)
    fds[1] = {connector_->fd(), connector_->events(), 0};
  else if (session_)
    fds[1] = {session_->fd(), session_->events(), 0};
  polled_ = fds[1].events;
  wake_ = until;
  lock.unlock();
  const Duration left = std::max(until - Clock::now(), Duration{});
  timespec time{};
  time.tv_sec = std::chrono::duration_cast<std::chrono::seconds>(left).count();
  time.tv_nsec = (left % std::chrono::seconds(1)).count();
  const int n = ppoll(fds, 2, &time, nullptr);
  if (fds[0].revents != 0) {
    std::uint64_t count = 0;
    static_cast<void>(!read(event_fd_, &count, sizeof count));
  }
  lock.lock();
  if (connector_) return connector_step(lock, n > 0 ? fds[1].revents : short{0});
  if (session_ && n > 0 && fds[1].revents != 0) session_->handle(fds[1].revents);
}

TimePoint IscsiCore::next_wake(TimePoint now) const noexcept {
  // Requests come without waking this thread, so it looks after their time often enough.
  TimePoint wake = now + std::min(uri_.keepalive, uri_.timeout / 2);
  const auto earlier = [&](TimePoint time) { wake = std::min(wake, time); };
  if (!active_.empty())
    earlier(active_.front().expired ? now + abort_patience / 8 : active_.front().deadline);
  for (const IscsiCommand* command : waiting_)
    if (flowing_ && command->not_before > TimePoint{}) earlier(command->not_before);
  if (session_ && pinged_ != TimePoint{}) earlier(pinged_ + patience());
  if (connector_)
    earlier(connector_->deadline());
  else if (wants_session() && !session_)
    earlier(next_try_);
  if (fence_)
    earlier(std::min(fence_->done ? fence_->deadline : TimePoint::max(), fence_->step_deadline));
  if (fence_ && session_) earlier(session_->last_received() + fence_patience);
  if (opening_) earlier(opening_->deadline);
  return wake;
}

// --- Connecting -------------------------------------------------------------------------------

bool IscsiCore::wants_session() const noexcept {
  if (stopping_) return false;
  if (controlled_)
    return opening_.has_value() || (fence_ && fence_->stage == Fence::Stage::relogin);
  return !active_.empty();
}

void IscsiCore::connect_step(TimePoint now) noexcept {
  if (session_ || connector_ || !wants_session() || now < next_try_) return;
  connector_ = std::make_unique<IscsiConnector>(uri_, initiator_, isid_);
}

/// Without the lock: begin() may wait for the resolver, and nobody else knows the connector.
void IscsiCore::connector_step(Lock& lock, short revents) noexcept {
  IscsiConnector& connector = *connector_;
  lock.unlock();
  const bool fresh = connector.deadline() == TimePoint{};
  if (fresh)
    connector.begin(Clock::now() + uri_.login_timeout);
  else
    connector.step(revents);
  lock.lock();
  const TimePoint now = Clock::now();
  if (!wants_session()) {
    connector_.reset();
    return;
  }
  if (connector.state() == IscsiConnector::Step::working) return;
  Result<void> result;
  if (connector.state() == IscsiConnector::Step::failed)
    result = connector.error();
  else
    result = check_same(connector.traits());
  if (result) {
    const bool had_cache = disk_.write_cache;
    disk_.write_cache = connector.traits().write_cache || (had_cache && unresolved_);
    session_ = connector.take_session();
    connector_.reset();
    return session_up(now);
  }
  const bool final = connector.state() == IscsiConnector::Step::up;
  if (final) {  // it answers, and is not what it was
    auto session = connector.take_session();
    session->close(result.error());
  }
  connector_.reset();
  if (last_error_ != result.error().message && !controlled_)
    log_warning(fmt::format("leg {}: no session with {}: {}; trying again", quoted(name_),
                            portal_text(uri_), result.error().message));
  last_error_ = result.error().message;
  next_try_ = now + backoff_.next();
  if (final && opening_) end_opening(result.error());
}

/// The peer must still be what it was when the leg was opened.
Result<void> IscsiCore::check_same(const disk::Traits& found) const {
  if (found.block_size != disk_.block_size)
    return Error{Errc::invalid, fmt::format("its blocks have {} bytes now, and had {}",
                                            found.block_size, disk_.block_size)};
  if (found.blocks * found.block_size < size_.value)
    return Error{Errc::invalid, fmt::format("the LUN has shrunk from {} to {} bytes", size_.value,
                                            found.blocks * found.block_size)};
  if (found.read_only && !read_only_)
    return Error{Errc::read_only, "the LUN is write-protected now"};
  if (!found.identity.empty() && !disk_.identity.empty() && found.identity != disk_.identity)
    return Error{Errc::invalid, "another LUN is there now"};
  return {};
}

void IscsiCore::session_up(TimePoint now) noexcept {
  if (!last_error_.empty() && !controlled_)
    log_info(fmt::format("leg {}: a session with {} again", quoted(name_), portal_text(uri_)));
  backoff_.reset();
  last_error_.clear();
  pinged_ = {};
  next_try_ = now;
  was_up_ = true;
  if (controlled_) return;  // control_step() goes on
  // What the old session left unanswered may still be running: a login alone is no proof with
  // every target, so nothing is repeated before a LUN RESET is answered. Nor is what a leg before
  // this one left.
  if (unresolved_ || LateWrites::get().count(storage_) != 0)
    settle_tag_ = session_->manage(iscsi::TaskFunction::logical_unit_reset);
  flowing_ = settle_tag_ == 0;
  session_->send();
}

void IscsiCore::session_ended(TimePoint now) noexcept {
  const Error reason = session_->error();
  probe_.reset();
  session_.reset();
  flowing_ = false;
  settle_tag_ = 0;
  pinged_ = {};
  next_try_ = now;
  if (stopping_) return;
  last_error_ = reason.message;
  if (!controlled_) {
    if (answered_writes_ != flushed_writes_ && disk_.write_cache) {
      flushed_writes_ = answered_writes_;
      flush_fails_ = true;
    }
    if (reason.code != Errc::shutdown)
      log_warning(fmt::format("leg {}: the session with {} is lost: {}", quoted(name_),
                              portal_text(uri_), reason.message));
    return;
  }
  stop_requests();
  if (!open_) return;
  open_ = false;
  callbacks_.push_back([this, reason] {
    if (LinkListener* const listener = listener_now()) listener->link_lost(*self_, reason);
  });
}

// --- Time -------------------------------------------------------------------------------------

/// Plain use: requests whose time is over.
void IscsiCore::expire(TimePoint now) noexcept {
  for (auto at = active_.begin(); at != active_.end() && at->deadline <= now;) {
    IscsiRequest& request = *at++;
    if (request.expired) {
      if (request.give_up > now || !session_) continue;
      session_->close({Errc::timed_out, fmt::format("a command had no answer within {} ms",
                                                    uri_.timeout / std::chrono::milliseconds(1))});
      return;
    }
    request.expired = true;
    if (stop_request(request)) continue;
    request.give_up = now + abort_patience;
    for (IscsiCommand& command : commands_)
      if (command.request == &request && command.inside) abort_command(command);
  }
  if (session_) session_->send();
}

Duration IscsiCore::patience() const noexcept {
  return fence_ ? std::min(fence_patience, uri_.keepalive) : uri_.keepalive;
}

/// Asks a silent target whether it is there, and drops a session that does not answer.
void IscsiCore::keep_alive(TimePoint now) noexcept {
  if (!session_ || session_->state() != IscsiSession::State::ready) return;
  const Duration limit = patience();
  const TimePoint heard = session_->last_received();
  if (pinged_ != TimePoint{} && heard >= pinged_) pinged_ = {};
  if (pinged_ != TimePoint{}) {
    if (now - pinged_ >= limit)
      session_->close({Errc::timed_out, fmt::format("the target has not answered for {} ms",
                                                    (now - heard) / std::chrono::milliseconds(1))});
    return;
  }
  if (now - heard < limit) return;
  pinged_ = now;
  session_->ping();
  session_->send();
}

/// The last thing that the thread does: a logout in order, if that goes quickly.
void IscsiCore::say_goodbye(Lock& lock) noexcept {
  connector_.reset();
  if (!session_) return;
  IscsiSession& session = *session_;
  lock.unlock();
  const TimePoint deadline = Clock::now() + goodbye_patience;
  session.logout();
  session.send();
  while (session.state() != IscsiSession::State::closed && Clock::now() < deadline) {
    pollfd fd{session.fd(), session.events(), 0};
    if (poll(&fd, 1, 50) > 0) session.handle(fd.revents);
  }
  session.close({Errc::shutdown, "closed"});
  lock.lock();
  while (session.take_ended() != nullptr) {
  }
  session_.reset();
}

}  // namespace blockloom
