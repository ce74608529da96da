#include "server/daemon/sockets.hpp"

#include <algorithm>
#include <cerrno>
#include <cstdlib>

#include <fcntl.h>
#include <fmt/format.h>
#include <netinet/in.h>
#include <sys/stat.h>
#include <systemd/sd-daemon.h>
#include <unistd.h>

namespace blockloom {
namespace {

constexpr const char* default_listener = "tcp:127.0.0.1:10809";

Result<SocketAddress> bound_to(int fd) {
  SocketAddress address;
  address.length = sizeof address.storage;
  if (::getsockname(fd, reinterpret_cast<sockaddr*>(&address.storage), &address.length) != 0)
    return system_error("getsockname", errno);
  return address;
}

/// The same place, whatever the mode and the spelling.
bool same_place(const SocketAddress& a, const Listener& b) {
  const auto listener = listener_of(a);
  return listener && to_string(listener.value()) == to_string(b);
}

Error cannot_listen(const Listener& listener, int error) {
  std::string hint;
  if (error == EADDRINUSE)
    hint = ": another server listens there";
  else if (error == EACCES)
    hint = ": expected a port from 1024 on, a folder that may be written, or root";
  else if (error == EADDRNOTAVAIL)
    hint = ": no interface of this machine has that address";
  else if (error == EAFNOSUPPORT && listener.kind == Listener::Kind::vsock)
    hint = ": the kernel has no vsock; on a host, load the module vhost_vsock";
  else if (error == ENOENT && listener.kind == Listener::Kind::unix_socket)
    hint = ": make the folder first";
  Error e = system_error(fmt::format("cannot listen on '{}'", to_string(listener)), error);
  e.message += hint;
  return e;
}

/// True for a socket file whose server is gone.
bool is_stale(const SocketAddress& address, const std::string& path) {
  struct stat status {};
  if (::lstat(path.c_str(), &status) != 0 || !S_ISSOCK(status.st_mode)) return false;
  // Not blocking: a server with a full backlog would otherwise hold us; it answers EAGAIN.
  const UniqueFd probe(::socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0));
  return probe && ::connect(probe.get(), address.get(), address.length) != 0 &&
         errno == ECONNREFUSED;
}

Result<void> bind_unix(int fd, const SocketAddress& address, const Listener& listener,
                       const Owner& owner) {
  // Closed to all until mode and owner are set; nobody can connect before listen() anyway.
  const mode_t before = ::umask(0777);
  int done = ::bind(fd, address.get(), address.length);
  if (done != 0 && errno == EADDRINUSE && is_stale(address, listener.path) &&
      ::unlink(listener.path.c_str()) == 0)
    done = ::bind(fd, address.get(), address.length);
  const int error = errno;
  ::umask(before);
  if (done != 0) return cannot_listen(listener, error);
  // Not asked for where nothing changes: a hardened unit forbids the call.
  const bool give = owner.user != static_cast<uid_t>(-1) || owner.group != static_cast<gid_t>(-1);
  if ((give && ::lchown(listener.path.c_str(), owner.user, owner.group) != 0) ||
      ::chmod(listener.path.c_str(), listener.mode) != 0)
    return cannot_listen(listener, errno);
  return {};
}

Result<UniqueFd> open_socket(const SocketAddress& address, const Listener& listener,
                             const Owner& owner) {
  const int family = address.storage.ss_family;
  UniqueFd fd(::socket(family, SOCK_STREAM | SOCK_CLOEXEC, 0));
  if (!fd) return cannot_listen(listener, errno);
  const int on = 1;
  if (family == AF_INET || family == AF_INET6)
    ::setsockopt(fd.get(), SOL_SOCKET, SO_REUSEADDR, &on, sizeof on);
  // IPv4 has a socket of its own, so `*` and [::] mean the same on every machine.
  if (family == AF_INET6) ::setsockopt(fd.get(), IPPROTO_IPV6, IPV6_V6ONLY, &on, sizeof on);
  if (family == AF_UNIX) {
    if (auto bound = bind_unix(fd.get(), address, listener, owner); !bound) return bound.error();
  } else if (::bind(fd.get(), address.get(), address.length) != 0) {
    return cannot_listen(listener, errno);
  }
  if (::listen(fd.get(), SOMAXCONN) != 0) return cannot_listen(listener, errno);
  return fd;
}

/// localhost and * go without IPv6 where the machine has none.
bool lacks_ipv6(const Listener& listener, const SocketAddress& place) {
  if (place.storage.ss_family != AF_INET6 || (listener.host != "localhost" && listener.host != "*"))
    return false;
  SocketAddress any_port = place;
  reinterpret_cast<sockaddr_in6&>(any_port.storage).sin6_port = 0;
  const UniqueFd probe(::socket(AF_INET6, SOCK_STREAM | SOCK_CLOEXEC, 0));
  if (!probe) return errno == EAFNOSUPPORT;
  return ::bind(probe.get(), any_port.get(), any_port.length) != 0 && errno == EADDRNOTAVAIL;
}

}  // namespace

Result<std::vector<ListeningSocket>> inherit_sockets(const Config& config) {
  std::vector<ListeningSocket> sockets;
  char** names = nullptr;
  const int count = ::sd_listen_fds_with_names(1, &names);
  if (count < 0) return system_error("LISTEN_FDS", -count);
  for (int i = 0; i < count; ++i) {
    const std::string name = names != nullptr && names[i] != nullptr ? names[i] : "";
    ::free(names != nullptr ? names[i] : nullptr);
    sockets.push_back({UniqueFd(SD_LISTEN_FDS_START + i), Listener{}, true});
    sockets.back().listener.path = name;
  }
  ::free(names);

  for (ListeningSocket& s : sockets) {
    const std::string what = fmt::format("inherited socket {} ({})", s.fd.get(), s.listener.path);
    if (::sd_is_socket(s.fd.get(), AF_UNSPEC, SOCK_STREAM, 1) <= 0)
      return Error{Errc::invalid, what + ": expected a stream socket that listens"};
    auto address = bound_to(s.fd.get());
    if (!address) return Error{address.code(), what + ": " + address.error().message};
    auto listener = listener_of(*address);
    if (!listener) return Error{listener.code(), what + ": " + listener.error().message};
    s.listener = std::move(*listener);
    for (const Listener& configured : config.listen)
      for (const SocketAddress& place : addresses(configured))
        if (same_place(place, s.listener)) s.listener.insecure = configured.insecure;
    if (auto allowed = check_public(s.listener, config); !allowed)
      return Error{allowed.code(), what + ": " + allowed.error().message};
  }
  return sockets;
}

Result<void> open_sockets(const Config& config, const Owner& owner,
                          std::vector<ListeningSocket>& sockets) {
  std::vector<Listener> wanted = config.listen;
  if (wanted.empty() && sockets.empty()) wanted.push_back(parse_listener(default_listener).value());
  const std::size_t inherited = sockets.size();
  for (const Listener& listener : wanted) {
    const std::vector<SocketAddress> places = addresses(listener);
    if (places.empty()) return cannot_listen(listener, EADDRNOTAVAIL);
    for (const SocketAddress& place : places) {
      const bool have =
          std::any_of(sockets.begin(), sockets.begin() + static_cast<std::ptrdiff_t>(inherited),
                      [&](const ListeningSocket& s) { return same_place(place, s.listener); });
      if (have || lacks_ipv6(listener, place)) continue;
      auto fd = open_socket(place, listener, owner);
      if (!fd) return fd.error();
      sockets.push_back({std::move(*fd), listener, false});
    }
  }
  return {};
}

Result<void> hand_over(std::vector<ListeningSocket> sockets) {
  // First out of the way, all of them: the place of one may be taken by another.
  const int count = static_cast<int>(sockets.size());
  for (ListeningSocket& s : sockets) {
    const int fd = ::fcntl(s.fd.get(), F_DUPFD_CLOEXEC, SD_LISTEN_FDS_START + count);
    if (fd < 0) return system_error("cannot hand a socket over", errno);
    s.fd = UniqueFd(fd);
  }
  for (int i = 0; i < count; ++i)
    if (::dup2(sockets[static_cast<std::size_t>(i)].fd.get(), SD_LISTEN_FDS_START + i) < 0)
      return system_error("cannot hand a socket over", errno);
  ::setenv("LISTEN_FDS", std::to_string(count).c_str(), 1);
  ::setenv("LISTEN_PID", std::to_string(::getpid()).c_str(), 1);
  ::unsetenv("LISTEN_FDNAMES");
  return {};
}

}  // namespace blockloom
