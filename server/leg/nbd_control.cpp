// NbdCore under a mirror's control: fences, sessions, and the news of the link. Rules Z3, S1, S2
// and B1 of the mirror protocol.
#include <algorithm>
#include <chrono>

#include <fmt/format.h>

#include "server/base/log.hpp"
#include "server/base/thread.hpp"
#include "server/leg/nbd_core.hpp"
#include "server/leg/nbd_epoch.hpp"

namespace blockloom {
namespace {

using std::chrono::milliseconds;
using std::chrono::seconds;

/// How soon a drain notices that the last answer came.
constexpr Duration drain_step = milliseconds(20);

const Error fenced{Errc::cancelled, "the link was fenced"};

std::uint64_t seed() noexcept {
  return now_ns();
}

}  // namespace

// --- called by the mirror
// -----------------------------------------------------------------------------

Result<void> NbdCore::take_control(RemoteLeg& self, LinkListener& listener) {
  {
    const Lock lock(mutex_);
    if (controlled_.load() || stopping_)
      return Error{Errc::busy, about("the leg has another master: a mirror cannot use it twice")};
    controlled_.store(true);
    phase_ = Phase::closed;
    state_ = "closed";
    self_ = &self;
    listener_ = &listener;
    lost_.reset();
    abort_.wake();
    changed_.notify_all();
  }
  set_mode_of_all(NbdConnection::Mode::barred);
  for (const auto& c : connections_)
    c->say_goodbye();
  drop_all(fenced);
  return {};
}

void NbdCore::fence(std::uint64_t epoch, FenceScope scope, TimePoint deadline,
                    RemoteLeg::FenceDone done) {
  // First of all nothing new goes out.
  set_mode_of_all(NbdConnection::Mode::barred);
  std::optional<Fence> old_fence;
  std::optional<Open> old_open;
  std::string refusal;
  {
    const Lock lock(mutex_);
    if (!controlled_.load() || stopping_) {
      refusal = "the leg is not under control";
    } else if (const auto lowest = std::max(highest_epoch_, used_epoch_ + 1); epoch < lowest) {
      refusal = fmt::format("epoch {}: expected {} or more", epoch, lowest);
    } else {
      highest_epoch_ = epoch;
      phase_ = Phase::closed;
      proved_epoch_ = 0;
      old_fence = std::exchange(fence_, Fence{epoch, scope, deadline, std::move(done)});
      old_open = std::exchange(open_, std::nullopt);
      abort_.wake();
      changed_.notify_all();
    }
  }
  if (!refusal.empty()) return done({Proof::impossible, about(refusal)});
  if (old_fence) old_fence->done({Proof::not_yet, about("another fence took its place")});
  if (old_open) old_open->done(Error{Errc::busy, about("a fence took its place")});
  if (start_threads()) return;
  {
    const Lock lock(mutex_);
    old_fence = std::exchange(fence_, std::nullopt);
  }
  if (old_fence) old_fence->done({Proof::not_yet, about("no thread can be started")});
}

void NbdCore::open_session(std::uint64_t epoch, TimePoint deadline, RemoteLeg::OpenDone done) {
  std::optional<Open> old;
  {
    const Lock lock(mutex_);
    // S2: no new session before the proof.
    if (controlled_.load() && !stopping_ && epoch != 0 && epoch == proved_epoch_ && !fence_) {
      old = std::exchange(open_, Open{epoch, deadline, std::move(done)});
      abort_.wake();
      changed_.notify_all();
      done = nullptr;
    }
  }
  if (old) old->done(Error{Errc::busy, about("another attempt took its place")});
  if (done) done(Error{Errc::invalid, about(fmt::format("epoch {} has no fence's proof", epoch))});
}

Cancel NbdCore::cancel(Io& io) noexcept {
  for (const auto& c : connections_)
    if (const Cancel answer = c->cancel(io); answer != Cancel::gone) return answer;
  return Cancel::gone;
}

void NbdCore::abandon(const Error& reason) noexcept {
  set_mode_of_all(NbdConnection::Mode::barred);
  std::optional<Open> open;
  {
    const Lock lock(mutex_);
    if (!controlled_.load()) return;
    phase_ = Phase::closed;
    state_ = fmt::format("given up: {}", reason.message);
    open = std::exchange(open_, std::nullopt);
    proved_epoch_ = 0;
    lost_.reset();
    abort_.wake();
    changed_.notify_all();
  }
  if (open) open->done(Error{Errc::cancelled, about(reason.message)});
  drop_all(reason);
}

std::string NbdCore::link_state() const {
  NbdConnection::Load load;
  for (const auto& c : connections_) {
    const auto one = c->load();
    load.sent += one.sent;
  }
  const Lock lock(mutex_);
  std::string text = fmt::format("{}: {}", uri_.server(), state_);
  if (phase_ != Phase::plain && phase_ != Phase::session && load.sent > 0)
    text += fmt::format(", {} request{} unanswered", load.sent, load.sent == 1 ? "" : "s");
  return text;
}

void NbdCore::drop_all(const Error& reason) noexcept {
  for (const auto& c : connections_)
    c->drop(reason);
}

void NbdCore::set_mode_of_all(NbdConnection::Mode mode) noexcept {
  for (const auto& c : connections_)
    c->set_mode(mode);
}

void NbdCore::stop() noexcept {
  {
    const Lock lock(mutex_);
    if (stopping_) return;
    stopping_ = true;
    abort_.wake();
    changed_.notify_all();
  }
  set_mode_of_all(NbdConnection::Mode::barred);
  for (const auto& c : connections_)
    c->say_goodbye();
  drop_all(Error{Errc::shutdown, "the leg is closed"});
  stopping_io_.store(true);
  io_wake_.wake();
  // The leg may be let go by a completion that runs here: the thread then ends by itself.
  for (std::thread* thread : {&link_thread_, &io_thread_}) {
    if (!thread->joinable()) continue;
    if (thread->get_id() == std::this_thread::get_id())
      thread->detach();  // tidy: it cannot join itself, and holds what it uses
    else
      thread->join();
  }
}

// --- the link thread
// -----------------------------------------------------------------------------------

/// S1: everything of the session ends, and then the mirror hears of it.
void NbdCore::tell_lost(Lock& lock) {
  const Error reason{lost_->code, about(lost_->message)};
  lock.unlock();
  set_mode_of_all(NbdConnection::Mode::barred);
  drop_all(reason);
  lock.lock();
  changed_.wait(lock, [this] { return live_links_ == 0 || superseded(); });
  if (superseded() || phase_ != Phase::session) return;
  phase_ = Phase::closed;
  state_ = fmt::format("lost: {}", lost_->message);
  lost_.reset();
  lock.unlock();
  listener_->link_lost(*self_, reason);
  lock.lock();
}

void NbdCore::run_fence(Lock& lock, Fence fence) {
  state_ = fmt::format("fencing (epoch {})", fence.epoch);
  proof_.reset();
  lock.unlock();
  set_mode_of_all(NbdConnection::Mode::barred);  // a session may have opened meanwhile
  lock.lock();
  FenceResult result = prove(lock, fence);
  if (result.proof == Proof::given) {
    if (superseded()) {
      result = {Proof::not_yet, about("another fence took its place")};
    } else {
      proved_epoch_ = fence.epoch;
      unknown_writes_ = 0;
      lost_.reset();
    }
  }
  state_ = result.proof == Proof::given ? fmt::format("fenced (epoch {})", fence.epoch)
                                        : fmt::format("not fenced: {}", result.reason);
  lock.unlock();
  fence.done(std::move(result));
  lock.lock();
}

/// Every request that could still land was answered: then there is nothing to prove.
bool NbdCore::quiet() const noexcept {
  return unknown_writes_ == 0 && std::all_of(connections_.begin(), connections_.end(), [](auto& c) {
           // A link that is dying has ended its writes before lost() counts them here.
           const NbdConnection::Load load = c->load();
           return load.writes_sent == 0 && load.unknown_writes == 0;
         });
}

/// Ends what is left of the old links: only reads are out, or what the proof covers.
void NbdCore::close_links(Lock& lock) {
  lock.unlock();
  for (const auto& c : connections_)
    c->say_goodbye();
  drop_all(fenced);
  lock.lock();
  changed_.wait(lock, [this] { return live_links_ == 0 || stopping_; });
}

FenceResult NbdCore::prove(Lock& lock, const Fence& fence) {
  Backoff backoff(nbd_first_pause, nbd_longest_pause, seed());
  std::string reason = "the deadline has passed";
  for (;;) {
    if (superseded()) return {Proof::not_yet, about("another fence took its place")};
    if (fence.scope == FenceScope::vouched || (fence.scope == FenceScope::own && quiet())) {
      close_links(lock);
      return {Proof::given, {}};
    }
    if (kind_ == Kind::foreign) {
      // FLUSH covers what was answered only, and there is no abort: nothing but the answers helps.
      if (fence.scope == FenceScope::everyone)
        return {Proof::impossible, about("the server knows no epochs: what an earlier process sent "
                                         "to it cannot be fenced")};
      if (unknown_writes_ > 0)
        return {Proof::impossible,
                about(fmt::format("the link was lost with {} writes unanswered, and the server "
                                  "knows no epochs: they may still land",
                                  unknown_writes_))};
      if (Clock::now() >= fence.deadline)
        return {Proof::not_yet, about("the server has not answered all writes yet")};
      pause(lock, std::min(fence.deadline, Clock::now() + drain_step));
      continue;
    }
    EpochAttempt attempt = open_epoch(lock, fence.epoch, fence.deadline);
    if (superseded()) continue;
    switch (attempt.end) {
      case EpochAttempt::End::proof:
        close_links(lock);
        proof_ = std::move(attempt.link);
        return {Proof::given, {}};
      case EpochAttempt::End::foreign:
        kind_ = Kind::foreign;
        continue;
      case EpochAttempt::End::outdated:
        return {Proof::impossible, about(attempt.reason.message)};
      case EpochAttempt::End::failed:
        reason = std::move(attempt.reason.message);
        break;
    }
    const TimePoint next = Clock::now() + backoff.next();
    if (next >= fence.deadline) return {Proof::not_yet, about(reason)};
    pause(lock, next);
  }
}

/// Opens the export under that epoch, and finds out what the server makes of it.
NbdCore::EpochAttempt NbdCore::open_epoch(Lock& lock, std::uint64_t epoch, TimePoint deadline) {
  using enum EpochAttempt::End;
  auto link = connect(lock, epoch_export(uri_.export_name, epoch), deadline);
  if (link) {
    const auto told = epoch_in_description(link->facts.description);
    if (!told) return {foreign, {}, {}};  // it opens whatever name it is given
    kind_ = Kind::ours;
    if (*told == epoch) return {proof, std::move(*link), {}};
    return {failed, {}, {Errc::io, fmt::format("it opened epoch {} for {}", *told, epoch)}};
  }
  // Refused, or not reached? Whoever answers the question is a server of ours, and says why.
  const Error reason = link.error();
  if (superseded() || reason.code == Errc::timed_out || reason.code == Errc::cancelled)
    return {failed, {}, reason};
  auto answer = connect(lock, epoch_query(uri_.export_name), deadline);
  if (answer) {
    const auto stored = epoch_in_description(answer->facts.description);
    if (!stored) return {foreign, {}, {}};
    kind_ = Kind::ours;
    if (*stored > epoch)
      return {outdated,
              {},
              {Errc::busy,
               fmt::format("epoch {} is over: another has fenced with epoch {}", epoch, *stored)}};
    return {failed, {}, {Errc::busy, fmt::format("epoch {} was refused; its log says why", epoch)}};
  }
  if (kind_ == Kind::ours || superseded()) return {failed, {}, reason};
  // Both names refused: the plain one tells a server that is there from one that is not.
  auto plain = connect(lock, uri_.export_name, deadline);
  if (plain) return {foreign, {}, {}};
  return {failed, {}, plain.error()};
}

void NbdCore::run_open(Lock& lock, Open open) {
  state_ = fmt::format("connecting (epoch {})", open.epoch);
  auto links = make_links(lock, open);
  if (links && superseded()) links = Error{Errc::busy, "another attempt took its place"};
  if (links && proved_epoch_ != open.epoch) links = Error{Errc::cancelled, "given up"};
  if (!links) {
    state_ = fmt::format("not connected: {}", links.error().message);
    const bool taken = superseded();
    lock.unlock();
    open.done(taken ? Error{Errc::busy, about("another attempt took its place")}
                    : Error{links.code(), about(links.error().message)});
    lock.lock();
    return;
  }
  phase_ = Phase::session;
  used_epoch_ = open.epoch;
  proved_epoch_ = 0;  // used up: the next session needs a new one
  lost_.reset();
  live_links_ = links->size();
  state_ = fmt::format("connected (epoch {})", open.epoch);
  // Under the lock: a fence, abandon() or stop() that comes now finds them up, and drops them.
  for (std::size_t i = 0; i < links->size(); ++i)
    connections_[i]->come_up(std::move((*links)[i]), NbdConnection::Mode::strict);
  lock.unlock();
  ticking_.store(true);  // so that the io thread watches the links
  io_wake_.wake();
  listener_->link_up(*self_, open.epoch);
  open.done({});
  lock.lock();
}

/// A link for every connection.
Result<std::vector<NbdLink>> NbdCore::make_links(Lock& lock, const Open& open) {
  Backoff backoff(nbd_first_pause, nbd_longest_pause, seed());
  for (;;) {
    auto first = first_link(lock, open);
    if (first) {
      if (auto r = check(first->facts); !r) return r.error();
      const std::string name =
          kind_ == Kind::ours ? epoch_export(uri_.export_name, open.epoch) : uri_.export_name;
      std::vector<NbdLink> links;
      links.push_back(std::move(*first));
      while (links.size() < connections_.size() && first) {
        first = connect(lock, name, open.deadline);
        if (first) links.push_back(std::move(*first));
      }
      if (first) return links;
    }
    // Busy: another has fenced us, and trying on changes nothing.
    if (superseded() || first.code() == Errc::busy) return first.error();
    const TimePoint next = Clock::now() + backoff.next();
    if (next >= open.deadline) return first.error();
    state_ = fmt::format("connecting: {}", first.error().message);
    pause(lock, next);
    if (superseded() || proved_epoch_ != open.epoch) return Error{Errc::cancelled, "given up"};
  }
}

Result<NbdLink> NbdCore::first_link(Lock& lock, const Open& open) {
  if (proof_) {
    NbdLink link = std::move(*std::exchange(proof_, std::nullopt));
    if (is_alive(link.socket)) return link;
  }
  if (kind_ != Kind::foreign) {
    EpochAttempt attempt = open_epoch(lock, open.epoch, open.deadline);
    if (attempt.end == EpochAttempt::End::proof) return std::move(*attempt.link);
    if (attempt.end != EpochAttempt::End::foreign)
      return Error{attempt.end == EpochAttempt::End::outdated ? Errc::busy : Errc::io,
                   attempt.reason.message};
    kind_ = Kind::foreign;
  }
  return connect(lock, uri_.export_name, open.deadline);
}

}  // namespace blockloom
