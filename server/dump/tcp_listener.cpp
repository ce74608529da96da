#include "server/dump/tcp_listener.hpp"

#include <cerrno>

#include <asio/io_context.hpp>
#include <asio/posix/stream_descriptor.hpp>
#include <asio/steady_timer.hpp>
#include <fmt/format.h>
#include <netinet/in.h>
#include <sys/socket.h>

#include "server/base/log.hpp"

namespace blockloom::dump {
namespace {

constexpr int accepted_in_a_row = 16;
constexpr auto pause = std::chrono::milliseconds(100);

class Listener final : public TcpListener {
 public:
  Listener(asio::io_context& io, UniqueFd listening, Accepted accepted)
      : ready_(io, listening.release()), timer_(io), accepted_(std::move(accepted)) {
    wait();
  }

 private:
  // The handlers of a listener that is gone see an error, and touch nothing.
  void wait() {
    ready_.async_wait(asio::posix::stream_descriptor::wait_read,
                      [this](const asio::error_code& error) {
                        if (!error) accept();
                      });
  }

  void accept() {
    for (int i = 0; i < accepted_in_a_row; ++i) {
      sockaddr_storage from{};
      socklen_t size = sizeof from;
      const int fd = ::accept4(ready_.native_handle(), reinterpret_cast<sockaddr*>(&from), &size,
                               SOCK_CLOEXEC | SOCK_NONBLOCK);
      if (fd >= 0) {
        accepted_(fd, Address::of(reinterpret_cast<const sockaddr*>(&from)));
        continue;
      }
      if (errno == EAGAIN || errno == EINTR || errno == ECONNABORTED) break;
      // Out of descriptors, most likely: those who wait are served when some close.
      log_warning(system_error("dump: accept", errno).message);
      timer_.expires_after(pause);
      timer_.async_wait([this](const asio::error_code& error) {
        if (!error) wait();
      });
      return;
    }
    wait();
  }

  asio::posix::stream_descriptor ready_;
  asio::steady_timer timer_;
  const Accepted accepted_;
};

}  // namespace

Result<UniqueFd> TcpListener::bind(BindPoint& where) {
  const std::string name = "tcp:" + where.text();
  const bool v4 = where.address.v4();
  UniqueFd fd(::socket(v4 ? AF_INET : AF_INET6, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0));
  if (!fd) return system_error(name, errno);
  const int on = 1;
  ::setsockopt(fd.get(), SOL_SOCKET, SO_REUSEADDR, &on, sizeof on);
  if (!v4) ::setsockopt(fd.get(), IPPROTO_IPV6, IPV6_V6ONLY, &on, sizeof on);
  sockaddr_storage address;
  socklen_t size = where.address.to_socket(where.port, address);
  if (::bind(fd.get(), reinterpret_cast<const sockaddr*>(&address), size) != 0 ||
      ::listen(fd.get(), 128) != 0)
    return system_error(name, errno);
  size = sizeof address;
  if (::getsockname(fd.get(), reinterpret_cast<sockaddr*>(&address), &size) == 0)
    where.port = ntohs(v4 ? reinterpret_cast<const sockaddr_in&>(address).sin_port
                          : reinterpret_cast<const sockaddr_in6&>(address).sin6_port);
  return fd;
}

std::unique_ptr<TcpListener> TcpListener::make(asio::io_context& io, UniqueFd listening,
                                               Accepted accepted) {
  return std::make_unique<Listener>(io, std::move(listening), std::move(accepted));
}

}  // namespace blockloom::dump
