// NbdConnection: how an Io becomes NBD commands, and their ends the Io's.
#include <algorithm>
#include <cerrno>

#include <libnbd.h>

#include "server/leg/nbd_connection.hpp"
#include "server/leg/zero_bytes.hpp"

namespace blockloom {
namespace {

constexpr std::uint64_t largest_range = 1U << 30;  // of a command without payload
/// In NbdTask::received: chunks came in an order that cannot be followed.
constexpr std::uint64_t misplaced = ~std::uint64_t{0};
constexpr unsigned window = 16;  // commands of one Io that are out at a time

/// A command ended. Runs under the handle's lock, on the reader's thread or a sender's; after the
/// last one the task is somebody else's.
int command_done(void* user, int* error) noexcept {
  auto& task = *static_cast<NbdTask*>(user);
  if (*error == ENOTCONN) {
    task.error.store(ENOTCONN, std::memory_order_relaxed);
  } else if (*error != 0) {
    int none = 0;
    task.error.compare_exchange_strong(none, *error, std::memory_order_relaxed);
  }
  if (task.commands.fetch_sub(1, std::memory_order_acq_rel) == 1) task.connection->push_done(task);
  return 1;  // retired: libnbd forgets it
}

/// A part of a read's answer is in the buffer. libnbd takes an answer for whole that is not. Runs
/// before command_done.
int chunk_received(void* user, const void* data, std::size_t length, std::uint64_t, unsigned,
                   int*) noexcept {
  auto& task = *static_cast<NbdTask*>(user);
  // In order, if it is one command; of several, each is one chunk or their sum has to do.
  const bool single = task.received != misplaced && task.single;
  if (single && data != task.io->data + task.received)
    task.received = misplaced;
  else if (task.received != misplaced)
    task.received += length;
  return 0;
}

/// Takes what the server says of a range, as far as it can be true: a server may name less than
/// it was asked for, or more. Runs before command_done.
int extents_found(void* user, const char* context, std::uint64_t offset, std::uint32_t* entries,
                  std::size_t count, int* error) noexcept {
  auto& task = *static_cast<NbdTask*>(user);
  Io& io = *task.io;
  if (*error != 0 || std::string_view(context) != LIBNBD_CONTEXT_BASE_ALLOCATION ||
      offset != io.offset.value || task.extents_end != 0)
    return 0;
  std::uint64_t at = 0;
  const auto add = [&](std::uint64_t end, bool hole, bool zero) {
    if (end <= task.extents_end) return true;
    if (!io.extents->add({Bytes(end - task.extents_end), hole, zero})) return false;
    task.extents_end = end;
    return true;
  };
  for (std::size_t i = 0; i + 1 < count && at < io.length.value; i += 2) {
    const std::uint64_t end = std::min<std::uint64_t>(io.length.value, at + entries[i]);
    const bool hole = (entries[i + 1] & LIBNBD_STATE_HOLE) != 0;
    const bool zero = (entries[i + 1] & LIBNBD_STATE_ZERO) != 0;
    // A sector that is only partly a hole counts as data.
    const std::uint64_t first = (at + sector_size - 1) / sector_size * sector_size;
    const std::uint64_t last = end / sector_size * sector_size;
    const bool plain = !hole && !zero;
    if (plain) {
      if (!add((end + sector_size - 1) / sector_size * sector_size, false, false)) break;
    } else if (last > first) {
      if (!add(first, false, false) || !add(last, hole, zero)) break;
    }
    at = end;
  }
  return 0;
}

nbd_completion_callback completion(NbdTask& task) noexcept {
  nbd_completion_callback callback{};
  callback.callback = command_done;
  callback.user_data = &task;
  return callback;
}

bool has_payload(const Io& io, const NbdExport& facts) noexcept {
  return io.op == Op::read || io.op == Op::write || (io.op == Op::zero && !facts.can_zero);
}

}  // namespace

void NbdConnection::push_done(NbdTask& task) noexcept {
  NbdTask* head = done_.load(std::memory_order_relaxed);
  do
    task.next_done = head;
  while (!done_.compare_exchange_weak(head, &task, std::memory_order_release,
                                      std::memory_order_relaxed));
}

/// One command over a part of the Io. False: libnbd did not take it, and its callback will not run.
bool NbdConnection::issue(NbdTask& task, std::uint64_t at, std::uint64_t length) noexcept {
  nbd_handle* h = handle_.get();
  const Io& io = *task.io;
  const std::uint64_t offset = io.offset.value + at;
  const std::uint32_t fua = io.has(io_flag::fua) && facts_.can_fua ? LIBNBD_CMD_FLAG_FUA : 0U;
  switch (io.op) {
    case Op::read: {
      if (!facts_.structured)
        return nbd_aio_pread(h, io.data + at, length, offset, completion(task), 0) >= 0;
      nbd_chunk_callback received{};
      received.callback = chunk_received;
      received.user_data = &task;
      task.single = at == 0 && length == io.length.value;
      return nbd_aio_pread_structured(h, io.data + at, length, offset, received, completion(task),
                                      facts_.can_send_whole ? LIBNBD_CMD_FLAG_DF : 0U) >= 0;
    }
    case Op::write:
      return nbd_aio_pwrite(h, io.data + at, length, offset, completion(task), fua) >= 0;
    case Op::trim:
      return nbd_aio_trim(h, length, offset, completion(task), fua) >= 0;
    case Op::zero: {
      if (!facts_.can_zero)
        return nbd_aio_pwrite(h, zero_bytes, length, offset, completion(task), fua) >= 0;
      const std::uint32_t flags = fua | (io.has(io_flag::may_trim) ? 0U : LIBNBD_CMD_FLAG_NO_HOLE) |
                                  (io.has(io_flag::fast) ? LIBNBD_CMD_FLAG_FAST_ZERO : 0U);
      return nbd_aio_zero(h, length, offset, completion(task), flags) >= 0;
    }
    case Op::cache:
      return nbd_aio_cache(h, length, offset, completion(task), 0) >= 0;
    case Op::flush:
      return nbd_aio_flush(h, completion(task), 0) >= 0;
    case Op::extents: {
      nbd_extent_callback found{};
      found.callback = extents_found;
      found.user_data = &task;
      return nbd_aio_block_status(h, length, offset, found, completion(task),
                                  io.has(io_flag::one_extent) ? LIBNBD_CMD_FLAG_REQ_ONE : 0U) >= 0;
    }
  }
  return false;
}

/// Sends all that may be out at once. True: the task belongs to its callbacks now. False: nothing
/// is out.
bool NbdConnection::send(NbdTask& task) noexcept {
  const Io& io = *task.io;
  const std::uint64_t most = !has_payload(io, facts_) ? largest_range
                             : io.op == Op::zero
                                 ? std::min<std::uint64_t>(zero_bytes_size, facts_.max_payload)
                                 : facts_.max_payload;
  const std::uint64_t left = io.length.value - task.position;
  task.commands.store(1, std::memory_order_relaxed);
  if (task.flushing) return nbd_aio_flush(handle_.get(), completion(task), 0) >= 0;
  // The answer about a part is an answer: the first command is all.
  if (left <= most || io.op == Op::extents) {
    const std::uint64_t at = task.position;
    task.position = io.length.value;
    if (issue(task, at, std::min(left, most))) return true;
    task.position = at;
    return false;
  }
  for (unsigned n = 0; n < window && task.position < io.length.value; ++n) {
    const std::uint64_t length = std::min(most, io.length.value - task.position);
    task.commands.fetch_add(1, std::memory_order_relaxed);
    if (!issue(task, task.position, length)) {
      task.commands.fetch_sub(1, std::memory_order_relaxed);
      if (n == 0) return false;
      // What is out may land, and the rest will not.
      task.error.store(ENOTCONN, std::memory_order_relaxed);
      break;
    }
    task.position += length;
  }
  if (task.commands.fetch_sub(1, std::memory_order_acq_rel) == 1) {
    push_done(task);
    wake_reader();
  }
  return true;
}

/// After all commands of a task ended well: is there more to do?
bool NbdConnection::has_more(const NbdTask& task) const noexcept {
  const Io& io = *task.io;
  if (task.flushing) return false;
  if (task.position < io.length.value) return true;
  return io.modifies() && io.has(io_flag::fua) && !facts_.can_fua && facts_.can_flush;
}

/// False: the link is gone.
bool NbdConnection::send_more(NbdTask& task) noexcept {
  task.flushing = task.position >= task.io->length.value;
  return send(task);
}

/// How a task ended.
Errc NbdConnection::status_of(const NbdTask& task) const noexcept {
  Io& io = *task.io;
  switch (const int error = task.error.load(std::memory_order_relaxed)) {
    case 0:
      break;
    case ENOTCONN:
      return end_unknown;
    case ENOTSUP:
      return io.op == Op::zero && io.has(io_flag::fast) ? Errc::not_supported : Errc::io;
    case EPERM:
    case ENOMEM:
    case ENOSPC:
      return from_errno(error);
    default:
      // EINVAL too: that the server finds the request wrong is no mistake of our client.
      return Errc::io;
  }
  if (io.op == Op::read && facts_.structured && task.received != io.length.value) return Errc::io;
  if (io.op == Op::extents && task.extents_end == 0)
    io.extents->add({Bytes(io.length), false, false});
  return Errc::ok;
}

}  // namespace blockloom
