// NbdCore: a plain leg's life, and the io thread. nbd_control.cpp does what a mirror asks.
#include "server/leg/nbd_core.hpp"

#include <algorithm>
#include <random>
#include <system_error>

#include <fmt/format.h>
#include <poll.h>

#include "server/base/log.hpp"
#include "server/base/thread.hpp"
#include "server/leg/late_writes.hpp"
#include "server/leg/storage_name.hpp"

namespace blockloom {
namespace {

/// A link that lived so long was a good one: the next pause is the shortest again.
constexpr Duration good_link = std::chrono::seconds(10);
constexpr Duration grace_when_released = std::chrono::seconds(2);

std::uint64_t to_ns(Duration d) noexcept {
  return static_cast<std::uint64_t>(std::chrono::nanoseconds(d).count());
}

}  // namespace

NbdCore::NbdCore(std::string leg, NbdUri uri, bool read_only, WakeFd io_wake, WakeFd abort,
                 Finish finish)
    : leg_(std::move(leg)),
      uri_(std::move(uri)),
      storage_(storage_name(leg_)),
      read_only_(read_only),
      finish_(finish),
      io_wake_(std::move(io_wake)),
      abort_(std::move(abort)) {}

std::string NbdCore::about(std::string_view what) const {
  return fmt::format("leg {}: {}: {}", quoted(leg_), uri_.server(), what);
}

Result<std::shared_ptr<NbdCore>> NbdCore::open(std::string leg, NbdUri uri, bool read_only,
                                               Finish finish) {
  auto io_wake = WakeFd::create(), abort = WakeFd::create();
  if (!io_wake) return io_wake.error();
  if (!abort) return abort.error();
  std::shared_ptr<NbdCore> core(new NbdCore(std::move(leg), std::move(uri), read_only,
                                            std::move(*io_wake), std::move(*abort), finish));
  const TimePoint deadline = Clock::now() + core->uri_.connect_timeout;
  auto first = connect_nbd(core->uri_, core->uri_.export_name, deadline, core->abort_);
  if (!first) return Error{first.code(), core->about(first.error().message)};
  core->facts_ = first->facts;
  if (core->facts_.read_only && !read_only)
    return Error{Errc::read_only, core->about("the server offers it for reading only: load this "
                                              "table read-only too")};
  if (core->facts_.size.value < sector_size)
    return Error{Errc::invalid, core->about(fmt::format("the export has {} bytes: expected one "
                                                        "sector or more",
                                                        core->facts_.size.value))};
  const bool several = core->facts_.can_multi_conn;
  for (unsigned i = 0; i < (several ? core->uri_.connections : 1); ++i) {
    auto wake = WakeFd::create();
    if (!wake) {
      core->let_go();
      return wake.error();
    }
    core->connections_.push_back(std::make_shared<NbdConnection>(core, std::move(*wake)));
    auto link = i == 0 ? std::move(first)
                       : connect_nbd(core->uri_, core->uri_.export_name, deadline, core->abort_);
    if (!link) {  // the others serve; it is tried again
      core->lost_ = link.error();
      continue;
    }
    core->connections_.back()->come_up(std::move(*link), NbdConnection::Mode::hold);
    ++core->live_links_;
  }
  if (!several && core->uri_.connections > 1)
    log_info(core->about("the server allows one connection only"));
  return core;
}

Submit NbdCore::submit(Io& io) noexcept {
  // The Io may end, and the leg's last owner let go of it, before this is through.
  const auto self = shared_from_this();
  if (!started_.load(std::memory_order_acquire) && !start_threads()) [[unlikely]]
    return io.finish_inline(Errc::no_memory);
  const std::uint64_t now = now_ns();
  std::uint64_t deadline = 0;
  if (!controlled_.load(std::memory_order_relaxed)) {
    if (io.op == Op::flush && owed_flush_.load(std::memory_order_relaxed) &&
        owed_flush_.exchange(false)) [[unlikely]]
      return io.finish_inline(Errc::io);
    deadline =
        now + to_ns(released_.load(std::memory_order_relaxed) ? grace_when_released : uri_.timeout);
  }
  std::size_t at = io.shard % connections_.size();
  for (std::size_t i = 0; i < connections_.size() && !connections_[at]->up(); ++i)
    at = (at + 1) % connections_.size();
  const Submit result = connections_[at]->submit(io, now, deadline);
  // After the task is in the connection's books: the io thread clears this, and then looks there.
  if (!ticking_.load(std::memory_order_seq_cst)) [[unlikely]] {
    ticking_.store(true, std::memory_order_seq_cst);
    io_wake_.wake();
  }
  return result;
}

Result<void> NbdCore::ready() const {
  if (controlled_.load()) return {};
  if (std::any_of(connections_.begin(), connections_.end(), [](auto& c) { return c->alive(); }))
    return {};
  const Lock lock(mutex_);
  return Error{Errc::io, about(lost_ ? lost_->message : "the server closed the connection")};
}

void NbdCore::release_held(Errc status) noexcept {
  released_.store(true);
  const std::uint64_t soon = now_ns() + to_ns(grace_when_released);
  for (const auto& connection : connections_) {
    if (!connection->up()) connection->fail_unsent(status);
    connection->hurry(soon);
  }
  io_wake_.wake();
}

/// FLUSH covers what was answered only, and there is no abort: nothing takes it off the list again.
void NbdCore::write_is_late() noexcept {
  if (!controlled_.load()) LateWrites::get().add(storage_);
}

void NbdCore::lost(NbdConnection& connection, const Error& reason) noexcept {
  const Lock lock(mutex_);
  --live_links_;
  ++losses_;
  unknown_writes_ += connection.take_unknown_writes();
  if (phase_ == Phase::plain && !stopping_) {
    if (!lost_) log_warning(about(fmt::format("the link is lost: {}", reason.message)));
    // A server that went down has perhaps lost what it had acknowledged and not flushed.
    if (writes_.completed.load() != writes_.flushed.load()) {
      writes_.flushed.store(writes_.completed.load());
      owed_flush_.store(true);
    }
  }
  if (!lost_) lost_ = reason;
  changed_.notify_all();
}

// --- the io thread
// ----------------------------------------------------------------------------------

bool NbdCore::start_threads() noexcept {
  const Lock lock(mutex_);
  if (started_.load()) return true;
  if (stopping_) return false;
  try {
    if (!io_thread_.joinable())
      io_thread_ =
          std::thread([self = shared_from_this(), all = connections_] { self->serve(all); });
    link_thread_ = std::thread([self = shared_from_this()] { self->look_after_links(); });
  } catch (const std::system_error&) {
    return false;
  } catch (const std::bad_alloc&) {
    return false;
  }
  started_.store(true, std::memory_order_release);
  return true;
}

void NbdCore::serve(const Connections& connections) {
  set_thread_name("bl-nbd-io");
  block_signals();
  std::vector<pollfd> fds;
  std::vector<NbdConnection*> reading, polled;
  const Duration period = std::clamp<Duration>(uri_.timeout / 4, std::chrono::milliseconds(25),
                                               std::chrono::seconds(1));
  TimePoint next_tick = Clock::now() + period;
  bool watch = false;
  for (;;) {
    for (const auto& c : connections)
      if (std::find(reading.begin(), reading.end(), c.get()) == reading.end() &&
          c->begin_reading(watch)) {
        reading.push_back(c.get());
        c->handle(0);
      }
    std::erase_if(reading, [](NbdConnection* c) { return c->end_reading(); });
    watch = false;
    const bool over = std::all_of(connections.begin(), connections.end(),
                                  [](auto& c) { return !c->up() && c->idle(); });
    if (over && stopping_io_.load()) return;

    fds.assign(1, {io_wake_.fd(), POLLIN, 0});
    polled = reading;
    for (NbdConnection* c : polled)
      c->fill(fds.emplace_back());
    const auto left = std::chrono::ceil<std::chrono::milliseconds>(next_tick - Clock::now());
    const int wait = ticking_.load() ? std::max(0, static_cast<int>(left.count())) : -1;
    if (poll(fds.data(), fds.size(), wait) < 0) continue;  // EINTR cannot be: signals are blocked
    const bool woken = fds[0].revents != 0;
    if (woken) io_wake_.drain();
    for (std::size_t i = 0; i < polled.size(); ++i)
      if (woken || fds[i + 1].revents != 0) polled[i]->handle(fds[i + 1].revents);
    if (Clock::now() < next_tick) continue;
    next_tick = Clock::now() + period;
    // Now and then it takes every link that nobody reads, so that an end of it is seen, and a
    // caller that was promised and is held up elsewhere holds nobody else up.
    watch = true;
    ticking_.store(tick(connections));
    if (!ticking_.load() && tick(connections)) ticking_.store(true);
  }
}

/// True while there is something that may expire.
bool NbdCore::tick(const Connections& connections) noexcept {
  bool busy = false;
  const Error late{Errc::timed_out,
                   fmt::format("no answer within {} ms",
                               std::chrono::ceil<std::chrono::milliseconds>(uri_.timeout).count())};
  for (const auto& c : connections) {
    c->expire(now_ns(), late);
    busy = busy || !c->idle();
  }
  return busy;
}

// --- the link thread
// --------------------------------------------------------------------------------

void NbdCore::look_after_links() {
  set_thread_name("bl-nbd-link");
  block_signals();
  Backoff backoff(nbd_first_pause, nbd_longest_pause, std::random_device()());
  Lock lock(mutex_);
  while (!stopping_) {
    if (fence_)
      run_fence(lock, *std::exchange(fence_, std::nullopt));
    else if (open_)
      run_open(lock, *std::exchange(open_, std::nullopt));
    else if (lost_ && phase_ == Phase::session)
      tell_lost(lock);
    else if (lost_ && phase_ == Phase::plain)
      reconnect(lock, backoff);
    else
      changed_.wait(lock);
  }
  // Nobody will do them any more.
  const auto fence = std::exchange(fence_, std::nullopt);
  const auto open = std::exchange(open_, std::nullopt);
  proof_.reset();
  lock.unlock();
  if (fence) fence->done({Proof::not_yet, about("the leg is closed")});
  if (open) open->done(Error{Errc::cancelled, about("the leg is closed")});
}

/// Waits; true when the time has come, false when there is something else to do.
bool NbdCore::pause(Lock& lock, TimePoint until) {
  return !changed_.wait_until(lock, until, [this] { return superseded(); });
}

Result<NbdLink> NbdCore::connect(Lock& lock, const std::string& name, TimePoint deadline) {
  if (superseded()) return Error{Errc::cancelled, "given up"};
  abort_.drain();  // who wants to cut it short from now on needs the lock first
  lock.unlock();
  auto link =
      connect_nbd(uri_, name, std::min(deadline, Clock::now() + uri_.connect_timeout), abort_);
  lock.lock();
  return link;
}

/// The export is still the one that the table was made for.
Result<void> NbdCore::check(const NbdExport& facts) const {
  if (facts.size < facts_.size)
    return Error{Errc::io, fmt::format("the export has shrunk from {} to {} bytes: load the table "
                                       "again",
                                       facts_.size.value, facts.size.value)};
  if (facts.read_only && !read_only_)
    return Error{Errc::read_only, "the server offers it for reading only now"};
  if (facts.min_block > facts_.min_block)
    return Error{Errc::io, fmt::format("the export's blocks have grown from {} to {} bytes: load "
                                       "the table again",
                                       facts_.min_block, facts.min_block)};
  return {};
}

void NbdCore::reconnect(Lock& lock, Backoff& backoff) {
  const TimePoint now = Clock::now();
  if (now - up_since_ > good_link) backoff.reset();
  const std::uint64_t losses = losses_;
  bool told = false;
  for (std::size_t i = 0; i < connections_.size();) {
    if (connections_[i]->up()) {
      ++i;
      continue;
    }
    auto link = connect(lock, uri_.export_name, TimePoint::max());
    if (link)
      if (auto r = check(link->facts); !r) link = r.error();
    if (stopping_ || phase_ != Phase::plain) return;
    if (link) {
      ++live_links_;
      up_since_ = Clock::now();
      // Under the lock: who takes control, or stops, drops it after this.
      connections_[i]->come_up(std::move(*link), NbdConnection::Mode::hold);
      continue;
    }
    if (!std::exchange(told, true))
      log_warning(about(fmt::format("cannot connect again yet: {}", link.error().message)));
    lost_ = link.error();
    state_ = fmt::format("lost: {}", link.error().message);
    pause(lock, Clock::now() + backoff.next());
    if (superseded()) return;
  }
  if (losses != losses_) {  // one of them has gone already
    pause(lock, Clock::now() + backoff.next());
    return;
  }
  lost_.reset();
  state_ = "connected";
  ticking_.store(true);  // so that the io thread watches the links
  io_wake_.wake();
  log_warning(about("connected again"));
}

}  // namespace blockloom
