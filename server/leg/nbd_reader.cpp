// NbdConnection: the reader, which takes the answers off the socket, and the callers that take
// turns in being it (leader and follower).
#include <algorithm>
#include <array>
#include <cerrno>
#include <string>
#include <string_view>
#include <utility>

#include <libnbd.h>
#include <poll.h>

#include "server/leg/nbd_connection.hpp"

namespace blockloom {
namespace {

Error last_error() {
  const char* text = nbd_get_error();
  std::string_view message = text != nullptr ? text : "the link failed";
  if (const auto colon = message.find(": "); message.starts_with("nbd_") && colon != message.npos)
    message.remove_prefix(colon + 2);
  return {Errc::io, std::string(message)};
}

}  // namespace

// --- callers take turns
// ----------------------------------------------------------------------------

void NbdConnection::wait(WaitingCaller& caller) noexcept {
  Lock lock(mutex_);
  while (!caller.told()) {
    if (!reading_ && handle_) {
      reading_ = true;
      lock.unlock();
      read_as(caller);
      lock.lock();
      reading_ = false;
      continue;
    }
    sleepers_.push_back(&caller);
    lock.unlock();
    caller.await_nudge();
    lock.lock();
    std::erase(sleepers_, &caller);
  }
  leave();
}

void NbdConnection::decline() noexcept {
  const Lock lock(mutex_);
  leave();
}

void NbdConnection::leave() noexcept {
  --callers_;
  pass_on_reading();
}

/// Under the lock: if nobody reads and something is out, somebody shall.
void NbdConnection::pass_on_reading() noexcept {
  if (reading_ || !handle_) return;
  if (tasks_ == 0 && drop_reason_.code == Errc::ok) return;
  // The one that came last has longest to wait for its own answer, and so reads most before it
  // passes this on.
  if (!sleepers_.empty())
    sleepers_.back()->nudge();
  else if (callers_ == 0)
    owner_->reader_wanted();
}

void NbdConnection::interrupt(WaitingCaller& caller) noexcept {
  // The caller shows itself here before it looks a last time whether it was told.
  if (polling_caller_.load(std::memory_order_seq_cst) == &caller) wake_.wake();
}

/// Wakes the reader, whoever it is, to look again at what it waits for. Needs no lock.
void NbdConnection::wake_reader() noexcept {
  wake_.wake();
  owner_->reader_wanted();
}

void NbdConnection::read_as(WaitingCaller& caller) noexcept {
  pollfd fds[2] = {{-1, 0, 0}, {wake_.fd(), POLLIN, 0}};
  while (!caller.told() && up()) {
    fill(fds[0]);
    polling_caller_.store(&caller, std::memory_order_seq_cst);
    const int n = caller.told() ? 0 : poll(fds, 2, -1);
    polling_caller_.store(nullptr, std::memory_order_seq_cst);
    if (n <= 0) continue;
    if (fds[1].revents != 0) wake_.drain();
    handle(fds[0].revents);
  }
}

bool NbdConnection::begin_reading(bool watch) noexcept {
  const Lock lock(mutex_);
  if (reading_ || !handle_) return false;
  const bool wanted = drop_reason_.code != Errc::ok || (tasks_ > 0 && callers_ == 0);
  return reading_ = wanted || watch;
}

bool NbdConnection::end_reading() noexcept {
  const Lock lock(mutex_);
  if (handle_ && sleepers_.empty()) return false;
  reading_ = false;
  pass_on_reading();
  return true;
}

// --- the reader's work --------------------------------------------------------------------------

// The reader may look at handle_ and socket_ without the lock: it alone closes them, and a new
// link comes only when they are gone.

void NbdConnection::fill(pollfd& entry) const noexcept {
  const unsigned direction = nbd_aio_get_direction(handle_.get());
  entry.fd = socket_.get();
  entry.events = POLLIN;
  if (direction & LIBNBD_AIO_DIRECTION_WRITE) entry.events |= POLLOUT;
  entry.revents = 0;
}

void NbdConnection::handle(short events) noexcept {
  nbd_handle* h = handle_.get();
  Error reason{Errc::ok, {}};
  if (nbd_aio_is_dead(h) > 0 || nbd_aio_is_closed(h) > 0) {
    // A sender has found it so.
  } else if (events & (POLLIN | POLLHUP | POLLERR)) {
    if (nbd_aio_notify_read(h) != 0) reason = last_error();
  } else if (events & POLLOUT) {
    if (nbd_aio_notify_write(h) != 0) reason = last_error();
  }
  settle(reason);
}

void NbdConnection::settle(const Error& reason) noexcept {
  nbd_handle* h = handle_.get();
  // In this order: libnbd shows the state after all callbacks have run.
  const bool dead = nbd_aio_is_dead(h) > 0 || nbd_aio_is_closed(h) > 0;
  if (done_.load(std::memory_order_relaxed) != nullptr) take_done(false);
  if (dead) {
    const bool orderly = nbd_aio_is_closed(h) > 0;
    die(reason.code != Errc::ok ? reason
                                : Error{Errc::io, orderly ? "the server closed the connection"
                                                          : "the connection broke"});
    return;
  }
  run_over();
  if (unsent_.load(std::memory_order_relaxed) > 0 && up()) send_waiting();
}

/// Sorts the tasks whose commands have ended, in their order, into over_ and aborted_.
void NbdConnection::take_done(bool dying) noexcept {
  NbdTask* list = nullptr;
  for (NbdTask* task = done_.exchange(nullptr, std::memory_order_acquire); task != nullptr;) {
    NbdTask* next = std::exchange(task->next_done, list);
    list = std::exchange(task, next);
  }
  while (list != nullptr) {
    NbdTask& task = *std::exchange(list, list->next_done);
    const int error = task.error.load(std::memory_order_relaxed);
    // While dying, what was done in part is unknown, and an error may have been that of a part.
    const bool more = error == 0 && has_more(task);
    if (more && !dying && send_more(task)) continue;
    (error == ENOTCONN || more || (dying && error != 0) ? aborted_ : over_).push(task);
  }
}

/// Frees the tasks that are over, and runs the completions of their Ios.
void NbdConnection::run_over() noexcept {
  std::array<std::pair<Io*, Errc>, 32> batch;
  while (!over_.empty()) {
    std::size_t count = 0;
    {
      const Lock lock(mutex_);
      while (!over_.empty() && count < batch.size()) {
        NbdTask& task = over_.pop();
        batch[count++] = {task.io, finish_task(task)};
        free_task(task);
      }
    }
    for (std::size_t i = 0; i < count; ++i)
      owner_->ended(*batch[i].first, batch[i].second);
  }
}

/// The status of a task that is over, which is counted.
Errc NbdConnection::finish_task(const NbdTask& task) noexcept {
  const Errc status = status_of(task);
  const Io& io = *task.io;
  NbdWrites& writes = owner_->writes();
  if (status == end_unknown) {
    if (io.modifies()) {
      unknown_writes_.fetch_add(1);
      owner_->write_is_late();
    }
  } else if (status == Errc::ok && io.modifies()) {
    if (!io.has(io_flag::fua)) writes.completed.fetch_add(1, std::memory_order_relaxed);
  } else if (status == Errc::ok && io.op == Op::flush) {
    writes.flushed.store(std::max(writes.flushed.load(), task.writes_before));
  }
  return status;
}

/// What only asked may ask again; what a part of the answer has come for may not.
bool NbdConnection::may_retry(const NbdTask& task, std::uint64_t now) const noexcept {
  const Op op = task.io->op;
  return mode_ == Mode::hold && (op == Op::read || op == Op::cache || op == Op::extents) &&
         task.extents_end == 0 && (task.deadline_ns == 0 || task.deadline_ns > now);
}

/// The link is dead, and libnbd has let go of every buffer.
void NbdConnection::die(Error reason) noexcept {
  {
    Lock lock(mutex_);
    dying_ = true;
    no_users_.wait(lock, [this] { return users_ == 0; });
  }
  take_done(true);  // also what a sender was still busy with
  std::unique_ptr<nbd_handle, NbdHandleCloser> handle;
  UniqueFd socket;
  bool strict = false;
  {
    const Lock lock(mutex_);
    const std::uint64_t now = now_ns();
    NbdTask* waiting = std::exchange(first_unsent_, nullptr);
    NbdTask* last = std::exchange(last_unsent_, nullptr);
    while (!aborted_.empty()) {
      NbdTask& task = aborted_.pop();
      task.error.store(ENOTCONN, std::memory_order_relaxed);
      if (may_retry(task, now)) {
        task.position = task.received = 0;
        task.error.store(0, std::memory_order_relaxed);
        push_unsent(task);
      } else {
        over_.push(task);
      }
    }
    if (waiting != nullptr) {  // they came later
      (last_unsent_ != nullptr ? last_unsent_->next_unsent : first_unsent_) = waiting;
      last_unsent_ = last;
    }
    handle = std::move(handle_);
    std::swap(socket, socket_);
    up_.store(false);
    blocked_ = dying_ = false;
    strict = mode_ != Mode::hold;
    if (drop_reason_.code != Errc::ok) reason = std::exchange(drop_reason_, {Errc::ok, {}});
  }
  handle.reset();
  run_over();
  if (strict) fail_unsent(Errc::cancelled);
  owner_->lost(*this, reason);
}

}  // namespace blockloom
