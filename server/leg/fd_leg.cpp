#include "server/leg/fd_leg.hpp"

#include <algorithm>
#include <cerrno>

#include <fcntl.h>
#include <fmt/format.h>
#include <linux/falloc.h>
#include <linux/fs.h>
#include <sys/ioctl.h>
#include <sys/uio.h>
#include <unistd.h>

#include "server/leg/nowait.hpp"
#include "server/leg/zero_bytes.hpp"

namespace blockloom {
namespace {

constexpr auto relaxed = std::memory_order_relaxed;

/// Repeats a system call that a signal interrupted.
template <class Call>
auto uninterrupted(Call call) noexcept {
  auto result = call();
  while (result == -1 && errno == EINTR)
    result = call();
  return result;
}

/// Transfers all bytes by calls that may transfer fewer.
template <class Transfer>
Errc transfer_all(std::uint64_t length, Transfer transfer) noexcept {
  for (std::uint64_t done = 0; done < length;) {
    const ssize_t n = uninterrupted([&] { return transfer(done, length - done); });
    if (n < 0) [[unlikely]]
      return from_errno(errno);
    // The file ends early: it was truncated under us. Nothing more will come.
    if (n == 0) [[unlikely]]
      return Errc::io;
    done += static_cast<std::uint64_t>(n);
  }
  return Errc::ok;
}

// Kernels before 4.9 say ENODEV for fallocate on a block device.
bool is_unsupported(int error) noexcept {
  return error == EOPNOTSUPP || error == ENOSYS || error == ENODEV || error == ENOTTY;
}

std::uint64_t block_size_of(int fd, FdKind kind) noexcept {
  int size = 0;
  if (kind == FdKind::block_device && ioctl(fd, BLKSSZGET, &size) == 0 &&
      size >= static_cast<int>(sector_size))
    return static_cast<std::uint64_t>(size);
  return sector_size;
}

}  // namespace

std::shared_ptr<const int> own_fd(int fd) {
  return {new int(fd), [](const int* p) {
            close(*p);
            delete p;
          }};
}

FdLeg::FdLeg(std::string uri, std::shared_ptr<const int> fd, FdKind kind, Bytes size,
             bool read_only)
    : Leg(std::move(uri)),
      fd_(*fd),
      kind_(kind),
      read_only_(read_only),
      size_(size),
      block_size_(block_size_of(fd_, kind)),
      owner_(std::move(fd)) {}

Result<void> FdLeg::ready() {
  // A file that shrank since it was opened would answer reads of its lost end with errors.
  const off_t end = lseek(fd_, 0, SEEK_END);
  if (end < 0) return system_error(fmt::format("leg '{}'", uri()), errno);
  if (static_cast<std::uint64_t>(end) >= size_.value) return {};
  return Error{Errc::io, fmt::format("leg '{}' has shrunk from {} to {} bytes since it was opened: "
                                     "load the table again",
                                     uri(), size_.value, end)};
}

Submit FdLeg::do_submit(Io& io) noexcept {
  if (io.op == Op::read) [[likely]]
    return io.finish_inline(io.has(io_flag::nowait) ? read_cached(io) : read(io));
  if (read_only_ && io.modifies()) [[unlikely]]
    return io.finish_inline(Errc::read_only);
  switch (io.op) {
    case Op::read:
      break;
    case Op::write:
      return io.finish_inline(io.has(io_flag::fua) ? write_durable(io) : write(io));
    case Op::flush:
      return io.finish_inline(flush());
    case Op::trim:
      return io.finish_inline(trim(io));
    case Op::zero:
      return io.finish_inline(zero(io));
    case Op::cache:
      return io.finish_inline(cache(io));
    case Op::extents:
      return io.finish_inline(extents(io));
  }
  return io.finish_inline(Errc::not_supported);
}

Errc FdLeg::read(const Io& io) noexcept {
  return transfer_all(io.length.value, [&](std::uint64_t done, std::uint64_t left) {
    return pread(fd_, io.data + done, left, static_cast<off_t>(io.offset.value + done));
  });
}

/// What the page cache has; Errc::busy where all of it would take a disk.
Errc FdLeg::read_cached(const Io& io) noexcept {
  for (std::uint64_t done = 0; done < io.length.value && can_nowait_.load(relaxed);) {
    const iovec part{io.data + done, io.length.value - done};
    const ssize_t n = uninterrupted([&] {
      return preadv2(fd_, &part, 1, static_cast<off_t>(io.offset.value + done), RWF_NOWAIT);
    });
    if (n > 0)
      done += static_cast<std::uint64_t>(n);
    else if (n < 0 && errno == EAGAIN)
      return Errc::busy;
    else if (n < 0 && is_unsupported(errno))
      can_nowait_.store(false, relaxed);  // tmpfs, which never waits
    else
      return n < 0 ? from_errno(errno) : Errc::io;
    if (done == io.length.value) return Errc::ok;
  }
  return read(io);
}

Errc FdLeg::write(const Io& io) noexcept {
  return transfer_all(io.length.value, [&](std::uint64_t done, std::uint64_t left) {
    return pwrite(fd_, io.data + done, left, static_cast<off_t>(io.offset.value + done));
  });
}

Errc FdLeg::write_durable(const Io& io) noexcept {
  if (can_dsync_.load(relaxed)) {
    const Errc result = transfer_all(io.length.value, [&](std::uint64_t done, std::uint64_t left) {
      const iovec part{io.data + done, left};
      return pwritev2(fd_, &part, 1, static_cast<off_t>(io.offset.value + done), RWF_DSYNC);
    });
    if (result != Errc::not_supported) return result;
    can_dsync_.store(false, relaxed);
  }
  const Errc result = write(io);
  return result == Errc::ok ? flush() : result;
}

Errc FdLeg::flush() noexcept {
  return uninterrupted([&] { return fdatasync(fd_); }) == 0 ? Errc::ok : from_errno(errno);
}

/// fallocate; not_supported when another way has to be found.
Errc FdLeg::allocate(int mode, const Io& io, Flag& supported) noexcept {
  if (!supported.load(relaxed)) return Errc::not_supported;
  const int result = uninterrupted([&] {
    return fallocate(fd_, mode, static_cast<off_t>(io.offset.value),
                     static_cast<off_t>(io.length.value));
  });
  if (result == 0) return Errc::ok;
  // A block device refuses a range that its larger blocks do not divide: this range only.
  if (errno == EINVAL) return Errc::not_supported;
  if (!is_unsupported(errno)) return from_errno(errno);
  supported.store(false, relaxed);
  return Errc::not_supported;
}

Errc FdLeg::trim(const Io& io) noexcept {
  Errc result = kind_ == FdKind::block_device
                    ? discard(io)
                    : allocate(FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, io, can_punch_);
  if (result == Errc::not_supported) result = Errc::ok;  // trim is a hint
  return result == Errc::ok && io.has(io_flag::fua) ? flush() : result;
}

/// Discards the whole blocks inside the range.
Errc FdLeg::discard(const Io& io) noexcept {
  if (!can_discard_.load(relaxed)) return Errc::not_supported;
  const std::uint64_t start = round_up(io.offset.value, block_size_);
  const std::uint64_t end = round_down((io.offset + io.length).value, block_size_);
  if (start >= end) return Errc::ok;
  const std::uint64_t range[2] = {start, end - start};
  if (uninterrupted([&] { return ioctl(fd_, BLKDISCARD, range); }) == 0) return Errc::ok;
  if (!is_unsupported(errno)) return from_errno(errno);
  can_discard_.store(false, relaxed);
  return Errc::not_supported;
}

Errc FdLeg::zero(const Io& io) noexcept {
  Errc result = zero_by_kernel(io);
  if (result == Errc::not_supported) {
    if (io.has(io_flag::fast)) return Errc::not_supported;
    result = write_zeroes(io);
  }
  return result == Errc::ok && io.has(io_flag::fua) ? flush() : result;
}

/// The ways of nbdkit's file plugin, in its order; not_supported when none is left.
Errc FdLeg::zero_by_kernel(const Io& io) noexcept {
  constexpr int punch = FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE;
  Errc result = Errc::not_supported;
  if (io.has(io_flag::may_trim)) result = allocate(punch, io, can_punch_);
  if (result == Errc::not_supported) result = allocate(FALLOC_FL_ZERO_RANGE, io, can_zero_range_);
  // Where a hole may not stay, one is punched and filled again (tmpfs has no zero range).
  if (result == Errc::not_supported && can_allocate_.load(relaxed)) {
    result = allocate(punch, io, can_punch_);
    if (result == Errc::ok) result = allocate(0, io, can_allocate_);
  }
  if (result != Errc::not_supported || kind_ != FdKind::block_device) return result;

  if (!can_zero_out_.load(relaxed) || (io.offset.value | io.length.value) % block_size_ != 0)
    return Errc::not_supported;
  const std::uint64_t range[2] = {io.offset.value, io.length.value};
  if (uninterrupted([&] { return ioctl(fd_, BLKZEROOUT, range); }) == 0) return Errc::ok;
  if (!is_unsupported(errno)) return from_errno(errno);
  can_zero_out_.store(false, relaxed);
  return Errc::not_supported;
}

Errc FdLeg::write_zeroes(const Io& io) noexcept {
  return transfer_all(io.length.value, [&](std::uint64_t done, std::uint64_t left) {
    return pwrite(fd_, zero_bytes, std::min<std::uint64_t>(left, zero_bytes_size),
                  static_cast<off_t>(io.offset.value + done));
  });
}

Errc FdLeg::cache(const Io& io) noexcept {
  // A hint: whatever it answers, a read will say what matters.
  static_cast<void>(posix_fadvise(fd_, static_cast<off_t>(io.offset.value),
                                  static_cast<off_t>(io.length.value), POSIX_FADV_WILLNEED));
  return Errc::ok;
}

Errc FdLeg::extents(const Io& io) noexcept {
  const std::uint64_t end = (io.offset + io.length).value;
  std::uint64_t at = io.offset.value;
  while (at < end && can_seek_.load(relaxed)) {
    const off_t data = lseek(fd_, static_cast<off_t>(at), SEEK_DATA);
    if (data < 0 && errno != ENXIO) {  // ENXIO: no data from here on
      if (errno != EINVAL && !is_unsupported(errno)) return from_errno(errno);
      can_seek_.store(false, relaxed);
      break;
    }
    // No data also lies beyond an end that moved; only reads may tell of that, so it is no hole.
    if (data < 0 && lseek(fd_, 0, SEEK_END) < static_cast<off_t>(end)) break;
    const std::uint64_t data_start =
        data < 0
            ? end
            : std::min(end,
                       std::max(at, round_down(static_cast<std::uint64_t>(data), sector_size)));
    if (data_start > at && !io.extents->add({Bytes(data_start - at), true, true})) return Errc::ok;
    at = data_start;
    if (at == end || (io.has(io_flag::one_extent) && at > io.offset.value)) return Errc::ok;

    // The file may change between the two calls: at least a sector is taken as data, so that
    // this ends, and what is called data is never wrong.
    const off_t hole = lseek(fd_, data, SEEK_HOLE);
    const std::uint64_t data_end =
        hole < 0 ? at : round_up(static_cast<std::uint64_t>(hole), sector_size);
    const std::uint64_t next = std::min(end, std::max(at + sector_size, data_end));
    if (!io.extents->add({Bytes(next - at), false, false}) || io.has(io_flag::one_extent))
      return Errc::ok;
    at = next;
  }
  if (at < end) io.extents->add({Bytes(end - at), false, false});
  return Errc::ok;
}

}  // namespace blockloom
