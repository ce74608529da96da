// NbdConnection: submitting, and what others may ask of it. nbd_commands.cpp makes the commands,
// nbd_reader.cpp reads the answers.
#include "server/leg/nbd_connection.hpp"

#include <algorithm>
#include <array>
#include <new>

#include <libnbd.h>
#include <sys/socket.h>

namespace blockloom {
namespace {

constexpr std::uint64_t rest_ns = 20'000'000;

bool is_gone(nbd_handle* h) noexcept {
  return nbd_aio_is_dead(h) > 0 || nbd_aio_is_closed(h) > 0;
}

bool is_full(nbd_handle* h) noexcept {
  return (nbd_aio_get_direction(h) & LIBNBD_AIO_DIRECTION_WRITE) != 0;
}

}  // namespace

NbdConnection::~NbdConnection() = default;

// --- tasks; all under the mutex ---------------------------------------------------------------

bool NbdConnection::grow() noexcept {
  constexpr std::size_t chunk = 64;
  if (chunks_.size() * chunk >= max_tasks) return false;
  try {
    auto tasks = std::make_unique<NbdTask[]>(chunk);
    chunks_.push_back(std::move(tasks));
  } catch (const std::bad_alloc&) {
    return false;
  }
  for (std::size_t i = 0; i < chunk; ++i) {
    chunks_.back()[i].newer = free_;
    free_ = &chunks_.back()[i];
  }
  return true;
}

NbdTask* NbdConnection::new_task(Io& io, std::uint64_t deadline_ns) noexcept {
  if (free_ == nullptr && !grow()) return nullptr;
  NbdTask& task = *free_;
  free_ = task.newer;
  task.connection = this;
  task.io = &io;
  task.deadline_ns = deadline_ns;
  task.position = task.received = task.extents_end = 0;
  task.sent = task.flushing = false;
  task.error.store(0, std::memory_order_relaxed);
  task.writes_before = io.op == Op::flush ? owner_->writes().completed.load() : 0;
  task.older = newest_;
  task.newer = nullptr;
  (newest_ != nullptr ? newest_->newer : oldest_) = &task;
  newest_ = &task;
  ++tasks_;
  return &task;
}

void NbdConnection::free_task(NbdTask& task) noexcept {
  (task.older != nullptr ? task.older->newer : oldest_) = task.newer;
  (task.newer != nullptr ? task.newer->older : newest_) = task.older;
  task.io = nullptr;
  task.newer = free_;
  free_ = &task;
  --tasks_;
}

void NbdConnection::push_unsent(NbdTask& task) noexcept {
  task.sent = false;
  task.next_unsent = nullptr;
  (last_unsent_ != nullptr ? last_unsent_->next_unsent : first_unsent_) = &task;
  last_unsent_ = &task;
  unsent_.fetch_add(1, std::memory_order_relaxed);
}

void NbdConnection::remove_unsent(NbdTask& task) noexcept {
  NbdTask* before = nullptr;
  for (NbdTask* t = first_unsent_; t != &task; t = t->next_unsent)
    before = t;
  (before != nullptr ? before->next_unsent : first_unsent_) = task.next_unsent;
  if (last_unsent_ == &task) last_unsent_ = before;
  unsent_.fetch_sub(1, std::memory_order_relaxed);
}

// --- submitting ---------------------------------------------------------------------------------

Submit NbdConnection::submit(Io& io, std::uint64_t now_ns, std::uint64_t deadline_ns) noexcept {
  Lock lock(mutex_);
  if (mode_ == Mode::barred || (mode_ == Mode::strict && !handle_)) [[unlikely]]
    return io.finish_inline(Errc::io);
  NbdTask* task = new_task(io, deadline_ns);
  if (task == nullptr) [[unlikely]]
    return io.finish_inline(Errc::limit);
  if (WaitingCaller* caller = WaitingCaller::current();
      caller != nullptr && caller->offer(shared_from_this()))
    ++callers_;
  if (blocked_ && first_unsent_ == nullptr && handle_) [[unlikely]]
    blocked_ = is_full(handle_.get());
  // After a rest the server may be gone without anyone having looked: what is not sent into such
  // a link is not lost with it.
  const bool rested = now_ns - std::exchange(last_used_ns_, now_ns) > rest_ns && tasks_ == 1;
  if (!handle_ || dying_ || blocked_ || first_unsent_ != nullptr || (rested && !is_alive(socket_)))
      [[unlikely]] {
    push_unsent(*task);
    // The reader may have made room since we looked, and sleep for good.
    if (handle_) wake_reader();
    return Submit::pending;
  }
  task->sent = true;
  ++users_;
  lock.unlock();
  const bool taken = send(*task);  // and the task may be gone
  lock.lock();
  if (!taken) [[unlikely]] {
    // The link has just died, and the reader will say what becomes of the task, or libnbd has an
    // objection.
    if (mode_ != Mode::hold && !handle_ && !dying_) {
      free_task(*task);
      io.status = Errc::io;
    } else if (!handle_ || dying_ || is_gone(handle_.get())) {
      push_unsent(*task);
      task = nullptr;
    } else {
      free_task(*task);
      io.status = Errc::invalid;
    }
  }
  sent();
  return taken || task == nullptr ? Submit::pending : Submit::done;
}

/// After a submitter's send, under the lock: somebody has to read the answer.
void NbdConnection::sent() noexcept {
  if (--users_ == 0 && dying_) no_users_.notify_all();
  if (!handle_) return;
  if ((!blocked_ && is_full(handle_.get())) || is_gone(handle_.get())) [[unlikely]] {
    // The reader sleeps without watching for room, or libnbd has closed its socket.
    blocked_ = true;
    wake_reader();
  }
  if (!reading_ && callers_ == 0) owner_->reader_wanted();
}

/// On the reader's thread, when the socket has room again.
void NbdConnection::send_waiting() noexcept {
  Lock lock(mutex_);
  blocked_ = is_full(handle_.get());
  while (!blocked_ && first_unsent_ != nullptr) {
    NbdTask& task = *first_unsent_;
    remove_unsent(task);
    task.sent = true;
    lock.unlock();
    const bool taken = send(task);
    lock.lock();
    if (!taken) {
      if (!is_gone(handle_.get())) {
        task.error.store(EINVAL, std::memory_order_relaxed);
        push_done(task);
        continue;
      }
      // Dead: it waits on, first in the row.
      task.sent = false;
      task.next_unsent = first_unsent_;
      first_unsent_ = &task;
      if (last_unsent_ == nullptr) last_unsent_ = &task;
      unsent_.fetch_add(1, std::memory_order_relaxed);
      return;
    }
    blocked_ = is_full(handle_.get());
  }
}

// --- what the leg asks
// ----------------------------------------------------------------------------

Cancel NbdConnection::cancel(Io& io) noexcept {
  {
    const Lock lock(mutex_);
    NbdTask* task = newest_;
    while (task != nullptr && task->io != &io)
      task = task->older;
    if (task == nullptr) return Cancel::gone;
    if (task->sent) return Cancel::unknown;
    remove_unsent(*task);
    free_task(*task);
  }
  owner_->ended(io, Errc::cancelled);
  return Cancel::never_sent;
}

void NbdConnection::come_up(NbdLink link, Mode mode) noexcept {
  const Lock lock(mutex_);
  mode_ = mode;
  handle_ = std::move(link.handle);
  socket_ = std::move(link.socket);
  facts_ = std::move(link.facts);
  drop_reason_ = {Errc::ok, {}};
  up_.store(true);
  // What waits is sent by the reader, which finds room at once.
  blocked_ = first_unsent_ != nullptr;
  if (blocked_) wake_reader();
  pass_on_reading();
}

bool NbdConnection::alive() const noexcept {
  const Lock lock(mutex_);
  return handle_ && is_alive(socket_);
}

void NbdConnection::set_mode(Mode mode) noexcept {
  {
    const Lock lock(mutex_);
    mode_ = mode;
  }
  if (mode != Mode::hold) fail_unsent(Errc::cancelled);
}

void NbdConnection::drop(const Error& reason) noexcept {
  const Lock lock(mutex_);
  if (!handle_) return;
  if (drop_reason_.code == Errc::ok) drop_reason_ = reason;
  shutdown(socket_.get(), SHUT_RDWR);
  if (!reading_) owner_->reader_wanted();
}

void NbdConnection::say_goodbye() noexcept {
  Lock lock(mutex_);
  if (!handle_ || dying_) return;
  ++users_;
  lock.unlock();
  static_cast<void>(nbd_aio_disconnect(handle_.get(), 0));
  lock.lock();
  sent();
  if (!reading_) owner_->reader_wanted();
}

/// Those that are due up to this time.
void NbdConnection::fail_unsent_before(std::uint64_t deadline_ns, Errc status) noexcept {
  std::array<Io*, 64> batch;
  std::size_t count = 0;
  do {
    count = 0;
    {
      const Lock lock(mutex_);
      for (NbdTask* task = first_unsent_; task != nullptr && count < batch.size();) {
        NbdTask& due = *task;
        task = task->next_unsent;
        if (deadline_ns != for_all && (due.deadline_ns == 0 || due.deadline_ns > deadline_ns))
          continue;
        remove_unsent(due);
        batch[count++] = due.io;
        free_task(due);
      }
    }
    for (std::size_t i = 0; i < count; ++i)
      owner_->ended(*batch[i], status);
  } while (count == batch.size());
}

void NbdConnection::expire(std::uint64_t now_ns, const Error& reason) noexcept {
  bool overdue = false, waiting = false;
  {
    const Lock lock(mutex_);
    for (const NbdTask* task = oldest_; task != nullptr; task = task->newer)
      if (task->deadline_ns != 0 && task->deadline_ns <= now_ns)
        (task->sent ? overdue : waiting) = true;
  }
  // Never sent: the end is known.
  if (waiting) fail_unsent_before(now_ns, Errc::io);
  if (overdue) drop(reason);
}

void NbdConnection::hurry(std::uint64_t deadline_ns) noexcept {
  const Lock lock(mutex_);
  for (NbdTask* task = oldest_; task != nullptr; task = task->newer)
    task->deadline_ns = std::min(task->deadline_ns, deadline_ns);
}

NbdConnection::Load NbdConnection::load() const noexcept {
  const Lock lock(mutex_);
  Load load;
  load.tasks = tasks_;
  load.unknown_writes = unknown_writes_.load();
  for (const NbdTask* task = oldest_; task != nullptr; task = task->newer) {
    load.sent += task->sent ? 1 : 0;
    load.writes_sent += task->sent && task->io->modifies() ? 1 : 0;
  }
  return load;
}

bool NbdConnection::idle() const noexcept {
  const Lock lock(mutex_);
  return tasks_ == 0;
}

}  // namespace blockloom
