#include "clients/blockloom-dump/link.hpp"

#include <cerrno>
#include <cstdlib>
#include <cstring>

#include <arpa/inet.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <sys/socket.h>
#include <unistd.h>

#include "clients/blockloom-dump/util.hpp"

namespace blockloom::sender {
namespace {

/// A server that takes no byte for so long is gone, or its disk is.
constexpr int stalled_ms = 60'000;

bool wait_for(int fd, short what, int timeout_ms) {
  pollfd wait{fd, what, 0};
  const std::int64_t until = now_ms() + timeout_ms;
  for (;;) {
    const std::int64_t left = until - now_ms();
    const int n = ::poll(&wait, 1, left > 0 ? static_cast<int>(left) : 0);
    if (n > 0) return true;
    if (n == 0 || errno != EINTR) return false;
  }
}

}  // namespace

void Link::close() {
  tls_.end();
  if (fd_ >= 0) ::close(fd_);
  fd_ = -1;
  have_ = taken_ = 0;
}

bool Link::connect(const char* address, const char* port, int timeout_ms, const char** why) {
  close();
  std::uint64_t number = 0;
  if (!parse_number(port, number) || number == 0 || number > 65535) {
    *why = "the port is not a number";
    return false;
  }
  sockaddr_in v4{};
  sockaddr_in6 v6{};
  v4.sin_family = AF_INET;
  v6.sin6_family = AF_INET6;
  v4.sin_port = v6.sin6_port = htons(static_cast<std::uint16_t>(number));
  const bool is_v4 = ::inet_pton(AF_INET, address, &v4.sin_addr) == 1;
  if (!is_v4 && ::inet_pton(AF_INET6, address, &v6.sin6_addr) != 1) {
    *why = "the server's address is not numeric";
    return false;
  }
  fd_ = ::socket(is_v4 ? AF_INET : AF_INET6, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
  const sockaddr* to =
      is_v4 ? reinterpret_cast<const sockaddr*>(&v4) : reinterpret_cast<const sockaddr*>(&v6);
  const socklen_t size = is_v4 ? sizeof v4 : sizeof v6;
  int error = fd_ < 0 ? errno : 0;
  if (error == 0 && ::connect(fd_, to, size) != 0) error = errno;
  if (error == EINPROGRESS) {
    socklen_t length = sizeof error;
    if (!wait_for(fd_, POLLOUT, timeout_ms))
      error = ETIMEDOUT;
    else if (::getsockopt(fd_, SOL_SOCKET, SO_ERROR, &error, &length) != 0)
      error = errno;
  }
  if (error != 0) {
    *why = std::strerror(error);
    close();
    return false;
  }
  const int on = 1;
  ::setsockopt(fd_, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
  ::setsockopt(fd_, SOL_SOCKET, SO_KEEPALIVE, &on, sizeof on);
  return true;
}

bool Link::start_tls(const TlsKeys& keys, const char* server, int timeout_ms, const char** why) {
  // What came in the clear behind the greeting is no answer in TLS.
  if (have_ != taken_)
    *why = "the server said more than it should before TLS";
  else if (tls_.start(fd_, keys, server, timeout_ms, why))
    return true;
  close();
  return false;
}

long Link::put(const void* bytes, std::size_t size) {
  return tls_.active() ? tls_.write(bytes, size) : ::send(fd_, bytes, size, MSG_NOSIGNAL);
}

long Link::take(void* bytes, std::size_t size) {
  return tls_.active() ? tls_.read(bytes, size) : ::recv(fd_, bytes, size, 0);
}

/// Until the call that could not go on can; TLS may have to read before it writes.
bool Link::wait(short otherwise, int timeout_ms) {
  return wait_for(fd_, tls_.active() ? tls_.wants() : otherwise, timeout_ms);
}

bool Link::flush(const unsigned char* bytes, std::size_t size) {
  std::int64_t stalled = now_ms() + stalled_ms;
  while (size > 0) {
    const long n = put(bytes, size);
    if (n > 0) {
      bytes += n;
      size -= static_cast<std::size_t>(n);
      stalled = now_ms() + stalled_ms;
      continue;
    }
    if (n < 0 && errno == EINTR) continue;
    if (n < 0 && errno != EAGAIN) return false;
    if (now_ms() >= stalled) return false;
    wait(POLLOUT, 1000);
  }
  return true;
}

bool Link::send(std::uint16_t type, std::uint64_t offset, const void* body, std::size_t size) {
  return send(type, offset, body, size, size == 0 ? 0 : dump::crc32c(0, body, size));
}

bool Link::send(std::uint16_t type, std::uint64_t offset, const void* body, std::size_t size,
                std::uint32_t crc) {
  dump::wire::Header header;
  header.type = type;
  header.length = static_cast<std::uint32_t>(size);
  header.offset = offset;
  header.body_crc = crc;
  unsigned char bytes[dump::wire::header_size];
  dump::wire::encode(header, bytes);
  return flush(bytes, sizeof bytes) && flush(static_cast<const unsigned char*>(body), size);
}

bool Link::fill(int timeout_ms) {
  for (;;) {
    const long n = take(in_ + have_, sizeof in_ - 1 - have_);
    if (n > 0) {
      have_ += static_cast<std::size_t>(n);
      return true;
    }
    if (n == 0) return false;
    if (errno == EINTR) continue;
    if (errno != EAGAIN) return false;
    if (timeout_ms == 0 || !wait(POLLIN, timeout_ms)) return true;
    timeout_ms = 0;
  }
}

Link::Got Link::receive(dump::wire::Header& header, int timeout_ms) {
  if (taken_ > 0) {
    in_[taken_] = kept_;
    std::memmove(in_, in_ + taken_, have_ - taken_);
    have_ -= taken_;
    taken_ = 0;
  }
  const std::int64_t until = now_ms() + timeout_ms;
  for (;;) {
    if (have_ >= dump::wire::header_size) {
      if (!dump::wire::decode(in_, header) || header.length > dump::wire::text_max)
        return Got::broken;
      const std::size_t size = dump::wire::header_size + header.length;
      if (have_ >= size) {
        if (header.length != 0 &&
            dump::crc32c(0, in_ + dump::wire::header_size, header.length) != header.body_crc)
          return Got::broken;
        taken_ = size;
        kept_ = in_[size];
        in_[size] = 0;
        return Got::frame;
      }
    }
    const std::int64_t left = until - now_ms();
    const std::size_t before = have_;
    if (!fill(left > 0 ? static_cast<int>(left) : 0)) return Got::broken;
    if (have_ == before && left <= 0) return Got::nothing;
  }
}

}  // namespace blockloom::sender
