#include "plugins/nbdkit/client_sockets.hpp"

#include <algorithm>
#include <cstdlib>
#include <cstring>
#include <memory>

#include <dirent.h>
#include <fcntl.h>
#include <linux/vm_sockets.h>
#include <netinet/in.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

namespace blockloom::nbd {
namespace {

/// The address a socket is bound to, in a form that an accepted socket shares with the one that
/// accepted it: family and port (the host may be a wildcard), or the Unix name. Empty for others.
std::string address_of(int fd) {
  union {
    sockaddr any;
    sockaddr_storage storage;
    sockaddr_in in4;
    sockaddr_in6 in6;
    sockaddr_un local;
    sockaddr_vm vm;
  } address{};
  socklen_t length = sizeof address;
  if (::getsockname(fd, &address.any, &length) != 0) return {};
  switch (address.any.sa_family) {
    case AF_INET:
      return "tcp " + std::to_string(ntohs(address.in4.sin_port));
    case AF_INET6:  // an IPv6 listener may take IPv4 clients, so both are one
      return "tcp " + std::to_string(ntohs(address.in6.sin6_port));
    case AF_VSOCK:
      return "vsock " + std::to_string(address.vm.svm_port);
    case AF_UNIX: {
      const std::size_t start = offsetof(sockaddr_un, sun_path);
      if (length <= start) return {};  // no name: a socket pair
      return "unix " + std::string(address.local.sun_path, length - start);
    }
    default:
      return {};
  }
}

int socket_option(int fd, int option) {
  int value = -1;
  socklen_t length = sizeof value;
  return ::getsockopt(fd, SOL_SOCKET, option, &value, &length) == 0 ? value : -1;
}

/// Calls `visit` with every descriptor of the process, but those of the walk itself.
template <class Visit>
void for_each_descriptor(Visit visit) {
  const std::unique_ptr<DIR, int (*)(DIR*)> folder(::opendir("/proc/self/fd"), ::closedir);
  if (!folder) return;
  while (const dirent* entry = ::readdir(folder.get())) {
    char* end = nullptr;
    const long fd = std::strtol(entry->d_name, &end, 10);
    if (end == entry->d_name || *end != '\0' || fd == ::dirfd(folder.get())) continue;
    visit(static_cast<int>(fd));
  }
}

}  // namespace

void ClientSockets::note_listeners() {
  listeners_.clear();
  for_each_descriptor([this](int fd) {
    if (socket_option(fd, SO_ACCEPTCONN) != 1) return;
    std::string address = address_of(fd);
    if (!address.empty()) listeners_.push_back(std::move(address));
  });
}

bool ClientSockets::is_client(int fd) const {
  if (socket_option(fd, SO_TYPE) != SOCK_STREAM || socket_option(fd, SO_ACCEPTCONN) != 0)
    return false;
  const std::string address = address_of(fd);
  return std::find(listeners_.begin(), listeners_.end(), address) != listeners_.end();
}

std::size_t ClientSockets::shut_down_all(bool writing_too) const {
  std::size_t found = 0;
  for_each_descriptor([&](int fd) {
    // nbdkit closes descriptors meanwhile, and their numbers may be taken anew: a copy of one's
    // own cannot change between the question and the deed.
    const int copy = ::fcntl(fd, F_DUPFD_CLOEXEC, 3);
    if (copy < 0) return;
    if (is_client(copy)) {
      ++found;
      ::shutdown(copy, writing_too ? SHUT_RDWR : SHUT_RD);
    }
    ::close(copy);
  });
  return found;
}

}  // namespace blockloom::nbd
