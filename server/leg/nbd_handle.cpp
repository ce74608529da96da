#include "server/leg/nbd_handle.hpp"

#include <algorithm>
#include <cerrno>
#include <cstdlib>
#include <string_view>

#include <fcntl.h>
#include <fmt/format.h>
#include <libnbd.h>
#include <linux/tcp.h>  // its tcp_info counts bytes; glibc's does not
#include <netinet/in.h>
#include <poll.h>
#include <sys/eventfd.h>
#include <sys/socket.h>
#include <unistd.h>

namespace blockloom {
namespace {

// A link whose peer does not even acknowledge is given up after this time.
constexpr int keepalive_idle_s = 5, keepalive_interval_s = 5, keepalive_probes = 3;
constexpr unsigned user_timeout_ms = 20'000;

constexpr std::uint32_t largest_payload = 32U << 20;  // what a server takes that says nothing
constexpr std::uint32_t largest_block = 64U << 10;    // the protocol's

// Of a handshake: a plain one takes about a hundred of libnbd's steps, and some hundred bytes.
constexpr unsigned most_handshake_steps = 2000;
constexpr std::uint64_t most_handshake_bytes = 1U << 20;

/// libnbd's last error in this thread, without the name of the function that hit it.
Error nbd_error() {
  const char* text = nbd_get_error();
  std::string_view message = text != nullptr ? text : "unknown error";
  if (const auto colon = message.find(": "); message.starts_with("nbd_") && colon != message.npos)
    message.remove_prefix(colon + 2);
  const Errc code = from_errno(nbd_get_errno());
  return {code == Errc::ok ? Errc::io : code, std::string(message)};
}

bool set_up(nbd_handle* h, const NbdUri& uri, const std::string& export_name) {
  bool ok = nbd_set_export_name(h, export_name.c_str()) == 0 && nbd_set_full_info(h, true) == 0 &&
            // That a read's answer is whole is checked, so no buffer needs to be cleared first.
            nbd_set_pread_initialize(h, false) == 0 &&
            nbd_add_meta_context(h, LIBNBD_CONTEXT_BASE_ALLOCATION) == 0 &&
            nbd_set_tls(h, uri.tls ? LIBNBD_TLS_REQUIRE : LIBNBD_TLS_DISABLE) == 0;
  if (!uri.tls) return ok;
  ok = ok && nbd_set_tls_verify_peer(h, uri.tls_verify_peer) == 0;
  if (!uri.user.empty()) ok = ok && nbd_set_tls_username(h, uri.user.c_str()) == 0;
  if (!uri.tls_certificates.empty())
    ok = ok && nbd_set_tls_certificates(h, uri.tls_certificates.c_str()) == 0;
  if (!uri.tls_psk_file.empty()) ok = ok && nbd_set_tls_psk_file(h, uri.tls_psk_file.c_str()) == 0;
  return ok;
}

int begin(nbd_handle* h, const NbdUri& uri) {
  switch (uri.transport) {
    case NbdUri::Transport::tcp:
      return nbd_aio_connect_tcp(h, uri.host.c_str(), std::to_string(uri.port).c_str());
    case NbdUri::Transport::unix_socket:
      return nbd_aio_connect_unix(h, uri.socket.c_str());
    case NbdUri::Transport::vsock:
      return nbd_aio_connect_vsock(h, uri.cid, uri.port);
  }
  return -1;
}

/// Bounds what a server may make of a handshake. libnbd reads on for as long as bytes are there,
/// within one call, and keeps what some replies say; its debug messages, one a step of its state
/// machine, are the place to stop it. Bytes are counted where the kernel does, over TCP.
class HandshakeBound {
 public:
  explicit HandshakeBound(TimePoint deadline) noexcept : deadline_(deadline) {}

  bool watch(nbd_handle* h) noexcept {
    const nbd_debug_callback callback{look, this, nullptr};
    return nbd_set_debug_callback(h, callback) == 0 && nbd_set_debug(h, true) == 0;
  }
  static void leave(nbd_handle* h) noexcept {
    nbd_set_debug(h, false);
    nbd_clear_debug_callback(h);
  }
  /// The socket that the next call may read.
  void set_socket(int fd) noexcept { fd_ = fd; }

  Result<void> check() {
    if (steps_ > most_handshake_steps || bytes_ > most_handshake_bytes)
      return Error{Errc::limit, fmt::format("it talks without end in the handshake: more than {}",
                                            steps_ > most_handshake_steps
                                                ? fmt::format("{} steps", most_handshake_steps)
                                                : fmt::format("{} bytes", most_handshake_bytes))};
    if (Clock::now() >= deadline_) return Error{Errc::timed_out, "it does not answer"};
    return {};
  }

 private:
  /// Under the handle's lock: nothing of libnbd's may be called.
  static int look(void* user, const char*, const char* message) noexcept {
    auto& self = *static_cast<HandshakeBound*>(user);
    if (!std::string_view(message).starts_with("transition: ")) return 0;
    ++self.steps_;
    if (self.fd_ < 0) return 0;
    tcp_info info{};
    socklen_t length = sizeof info;
    if (getsockopt(self.fd_, IPPROTO_TCP, TCP_INFO, &info, &length) == 0)
      self.bytes_ = info.tcpi_bytes_received;
    const bool over = self.steps_ > most_handshake_steps || self.bytes_ > most_handshake_bytes;
    if (over || Clock::now() >= self.deadline_) shutdown(self.fd_, SHUT_RDWR);
    return 0;
  }

  const TimePoint deadline_;
  int fd_ = -1;
  unsigned steps_ = 0;
  std::uint64_t bytes_ = 0;
};

/// Carries the handshake to its end.
Result<void> shake_hands(nbd_handle* h, HandshakeBound& bound, TimePoint deadline,
                         const WakeFd& abort) {
  using std::chrono::ceil;
  using std::chrono::milliseconds;
  while (nbd_aio_is_connecting(h) > 0 || nbd_aio_is_negotiating(h) > 0) {
    if (auto r = bound.check(); !r) return r;
    bound.set_socket(nbd_aio_get_fd(h));
    const unsigned direction = nbd_aio_get_direction(h);
    pollfd fds[2] = {{nbd_aio_get_fd(h), 0, 0}, {abort.fd(), POLLIN, 0}};
    if (direction & LIBNBD_AIO_DIRECTION_READ) fds[0].events |= POLLIN;
    if (direction & LIBNBD_AIO_DIRECTION_WRITE) fds[0].events |= POLLOUT;
    const auto left = std::max<Duration>(deadline - Clock::now(), Duration(0));
    const int n = poll(fds, 2, static_cast<int>(ceil<milliseconds>(left).count()));
    if (n < 0 && errno != EINTR) return system_error("poll", errno);
    if (fds[1].revents != 0) return Error{Errc::cancelled, "given up"};
    if (n == 0) return Error{Errc::timed_out, "it does not answer"};
    if (n < 0 || fds[0].revents == 0) continue;
    const bool write =
        (direction & LIBNBD_AIO_DIRECTION_WRITE) != 0 &&
        ((fds[0].revents & POLLOUT) != 0 || (direction & LIBNBD_AIO_DIRECTION_READ) == 0);
    if ((write ? nbd_aio_notify_write(h) : nbd_aio_notify_read(h)) == 0) continue;
    const Error failed = nbd_error();
    if (auto r = bound.check(); !r) return r;
    return failed;
  }
  if (auto r = bound.check(); !r) return r;
  if (nbd_aio_is_ready(h) > 0) return {};
  if (nbd_aio_is_closed(h) > 0) return Error{Errc::io, "it hung up during the handshake"};
  return nbd_error();
}

bool yes(int answer) {
  return answer > 0;
}

Result<NbdExport> ask(nbd_handle* h) {
  NbdExport facts;
  const std::int64_t size = nbd_get_size(h);
  if (size < 0)
    return Error{Errc::io, fmt::format("it names a size of {} bytes, which cannot be",
                                       static_cast<std::uint64_t>(size))};
  facts.size = Bytes(static_cast<std::uint64_t>(size));
  facts.read_only = yes(nbd_is_read_only(h));
  facts.can_flush = yes(nbd_can_flush(h));
  facts.can_fua = yes(nbd_can_fua(h));
  facts.can_trim = yes(nbd_can_trim(h));
  facts.can_zero = yes(nbd_can_zero(h));
  facts.can_fast_zero = yes(nbd_can_fast_zero(h));
  facts.can_cache = yes(nbd_can_cache(h));
  facts.can_multi_conn = yes(nbd_can_multi_conn(h));
  facts.structured = yes(nbd_get_structured_replies_negotiated(h));
  facts.can_send_whole = facts.structured && yes(nbd_can_df(h));
  facts.can_tell_extents = yes(nbd_can_meta_context(h, LIBNBD_CONTEXT_BASE_ALLOCATION));

  const std::int64_t min = nbd_get_block_size(h, LIBNBD_SIZE_MINIMUM);
  const std::int64_t max = nbd_get_block_size(h, LIBNBD_SIZE_MAXIMUM);
  if (min > 0) facts.min_block = static_cast<std::uint32_t>(std::min<std::int64_t>(min, 1U << 31));
  if (facts.min_block > largest_block || (facts.min_block & (facts.min_block - 1)) != 0)
    return Error{Errc::io, fmt::format("it asks for blocks of {} bytes: expected a power of two up "
                                       "to {}",
                                       min, largest_block)};
  const std::uint32_t unit = std::max<std::uint32_t>(facts.min_block, sector_size);
  if (max > 0)
    facts.max_payload =
        static_cast<std::uint32_t>(std::min<std::int64_t>(max, largest_payload)) / unit * unit;
  if (facts.max_payload == 0)
    return Error{Errc::io, fmt::format("it takes at most {} bytes at a time: expected {} or more",
                                       max, unit)};
  if (char* text = nbd_get_export_description(h)) {
    facts.description = text;
    std::free(text);
  }
  return facts;
}

/// A peer that is gone without a word is noticed by the kernel.
void watch_link(int fd) {
  const int on = 1;
  setsockopt(fd, SOL_SOCKET, SO_KEEPALIVE, &on, sizeof on);
  setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
  setsockopt(fd, IPPROTO_TCP, TCP_KEEPIDLE, &keepalive_idle_s, sizeof keepalive_idle_s);
  setsockopt(fd, IPPROTO_TCP, TCP_KEEPINTVL, &keepalive_interval_s, sizeof keepalive_interval_s);
  setsockopt(fd, IPPROTO_TCP, TCP_KEEPCNT, &keepalive_probes, sizeof keepalive_probes);
  setsockopt(fd, IPPROTO_TCP, TCP_USER_TIMEOUT, &user_timeout_ms, sizeof user_timeout_ms);
}

}  // namespace

Result<WakeFd> WakeFd::create() {
  const int fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
  if (fd < 0) return system_error("eventfd", errno);
  return WakeFd(fd);
}

void WakeFd::wake() const noexcept {
  const std::uint64_t one = 1;
  // EAGAIN: the counter is full, and so the sleeper awake.
  [[maybe_unused]] const auto n = write(fd_.get(), &one, sizeof one);
}

void WakeFd::drain() const noexcept {
  std::uint64_t count = 0;
  [[maybe_unused]] const auto n = read(fd_.get(), &count, sizeof count);
}

bool is_alive(const UniqueFd& socket) noexcept {
  pollfd fd{socket.get(), POLLRDHUP, 0};
  return poll(&fd, 1, 0) == 0;
}

void NbdHandleCloser::operator()(nbd_handle* handle) const noexcept {
  nbd_close(handle);
}

Result<NbdLink> connect_nbd(const NbdUri& uri, const std::string& export_name, TimePoint deadline,
                            const WakeFd& abort) {
  HandshakeBound bound(deadline);  // the handle calls it to its own end
  NbdLink link;
  link.handle.reset(nbd_create());
  nbd_handle* h = link.handle.get();
  if (h == nullptr || !bound.watch(h) || !set_up(h, uri, export_name)) return nbd_error();
  if (begin(h, uri) != 0) return nbd_error();
  if (auto r = shake_hands(h, bound, deadline, abort); !r) return r.error();
  HandshakeBound::leave(h);
  auto facts = ask(h);
  if (!facts) return facts.error();
  link.facts = std::move(*facts);
  link.socket = UniqueFd(fcntl(nbd_aio_get_fd(h), F_DUPFD_CLOEXEC, 0));
  if (link.socket.get() < 0) return system_error("dup", errno);
  if (uri.transport == NbdUri::Transport::tcp) watch_link(link.socket.get());
  return link;
}

}  // namespace blockloom
