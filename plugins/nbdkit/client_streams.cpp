#include "plugins/nbdkit/client_streams.hpp"

#include <algorithm>
#include <cerrno>
#include <cstdint>
#include <cstring>
#include <memory>
#include <new>
#include <utility>

#include <endian.h>
#include <sys/socket.h>
#include <sys/uio.h>
#include <unistd.h>

namespace blockloom::nbd {
namespace {

constexpr std::size_t request_header_bytes = 28;
/// More data goes in a call of its own: over TCP 1 MiB reads were a fifth slower in one call.
constexpr std::size_t most_together = 64 * 1024;
constexpr std::uint32_t request_magic = 0x25609513;  // NBD_REQUEST_MAGIC

bool peer_is_gone(int error_number) noexcept {
  return error_number == EPIPE || error_number == ECONNRESET || error_number == ENOTCONN ||
         error_number == ETIMEDOUT || error_number == EHOSTUNREACH || error_number == ENETUNREACH;
}

bool is_request(const void* data, ssize_t length) noexcept {
  if (length != ssize_t{request_header_bytes}) return false;
  std::uint32_t magic = 0;
  std::memcpy(&magic, data, sizeof magic);
  return be32toh(magic) == request_magic;
}

bool is_tcp(int fd) noexcept {
  int family = AF_UNSPEC;
  socklen_t length = sizeof family;
  if (::getsockopt(fd, SOL_SOCKET, SO_DOMAIN, &family, &length) != 0) return false;
  return family == AF_INET || family == AF_INET6;
}

/// A reset connection is told as a closed one, which nbdkit ends in an orderly way.
ssize_t reset_is_end(ssize_t result) noexcept {
  return result < 0 && errno == ECONNRESET ? 0 : result;
}

/// A client that is gone is no failure to send; the readers are to find the end now.
bool let_readers_find_end(int fd) noexcept {
  if (!peer_is_gone(errno)) return false;
  ::shutdown(fd, SHUT_RD);
  return true;
}

}  // namespace

struct ClientStreams::Stream {
  explicit Stream(int fd) noexcept : reads_ahead(!is_tcp(fd)) {}

  // The receiver's.
  const bool reads_ahead;
  bool in_large_payload = false;   ///< reading ahead would only copy what the next call takes whole
  std::size_t begin = 0, end = 0;  ///< of what is kept in `ahead`
  std::array<std::byte, read_ahead> ahead;

  // The sender's.
  alignas(64) std::size_t held = 0;
  std::array<std::byte, 64> parts;  ///< of an answer: its header, and a read's offset

  ssize_t take(void* data, std::size_t length) noexcept {
    const std::size_t taken = std::min(length, end - begin);
    std::memcpy(data, ahead.data() + begin, taken);
    begin += taken;
    return static_cast<ssize_t>(taken);
  }

  ssize_t receive(int fd, void* data, std::size_t length) noexcept {
    if (begin < end) return take(data, length);
    const bool large = length >= read_ahead;
    if (!reads_ahead || large || in_large_payload) {
      in_large_payload = large;
      return reset_is_end(::read(fd, data, length));
    }
    const std::array<iovec, 2> room{iovec{data, length}, iovec{ahead.data(), ahead.size()}};
    const ssize_t n = reset_is_end(::readv(fd, room.data(), room.size()));
    if (n <= static_cast<ssize_t>(length)) return n;
    begin = 0;
    end = static_cast<std::size_t>(n) - length;
    return static_cast<ssize_t>(length);
  }

  bool hold(const void* data, std::size_t length) noexcept {
    if (length > parts.size() - held) return false;
    std::memcpy(parts.data() + held, data, length);
    held += length;
    return true;
  }

  /// Sends what is held, and as much of `data` as goes with it.
  ssize_t send(int fd, const void* data, std::size_t length, int flags) noexcept {
    const bool together = length <= most_together;
    std::size_t begun = 0;
    while (begun < held) {
      std::array<iovec, 2> out{iovec{parts.data() + begun, held - begun},
                               iovec{const_cast<void*>(data), length}};
      msghdr message{};
      message.msg_iov = out.data();
      message.msg_iovlen = together ? 2 : 1;
      const ssize_t n = ::sendmsg(fd, &message, together ? flags : flags | MSG_MORE);
      if (n < 0 && (errno == EINTR || errno == EAGAIN)) continue;  // as nbdkit does
      if (n < 0) return n;
      begun += static_cast<std::size_t>(n);
    }
    const std::size_t sent = begun - std::exchange(held, 0);
    return sent > 0 || length == 0 ? static_cast<ssize_t>(sent) : ::send(fd, data, length, flags);
  }
};

ClientStreams::~ClientStreams() {
  for (auto& stream : streams_)
    delete stream.load();
}

ClientStreams::Stream* ClientStreams::find(int fd) const noexcept {
  const auto index = static_cast<std::size_t>(fd);  // a negative one is beyond the bound
  return index < streams_.size() ? streams_[index].load(std::memory_order_acquire) : nullptr;
}

ClientStreams::Stream* ClientStreams::make(int fd) noexcept {
  const auto index = static_cast<std::size_t>(fd);
  if (index >= streams_.size()) return nullptr;
  std::unique_ptr<Stream> fresh(new (std::nothrow) Stream(fd));
  Stream* there = nullptr;  // the other direction's thread may make it now
  if (fresh && streams_[index].compare_exchange_strong(there, fresh.get())) return fresh.release();
  return there;
}

ssize_t ClientStreams::receive(int fd, void* data, std::size_t length) noexcept {
  if (Stream* stream = find(fd)) [[likely]]
    return stream->receive(fd, data, length);
  const ssize_t n = reset_is_end(::read(fd, data, length));
  if (is_request(data, n)) make(fd);
  return n;
}

ssize_t ClientStreams::send(int fd, const void* data, std::size_t length, int flags) noexcept {
  Stream* const stream = find(fd);
  if (stream && (flags & MSG_MORE) && stream->hold(data, length))
    return static_cast<ssize_t>(length);
  flags |= MSG_NOSIGNAL;
  const ssize_t sent = stream && stream->held > 0 ? stream->send(fd, data, length, flags)
                                                  : ::send(fd, data, length, flags);
  if (sent < 0 && let_readers_find_end(fd)) return static_cast<ssize_t>(length);
  return sent;
}

int ClientStreams::close(int fd) noexcept {
  if (find(fd)) delete streams_[static_cast<std::size_t>(fd)].exchange(nullptr);
  return ::close(fd);
}

}  // namespace blockloom::nbd
