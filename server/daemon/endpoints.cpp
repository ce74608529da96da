#include "server/daemon/endpoints.hpp"

#include <algorithm>
#include <cstring>
#include <memory>
#include <string>

#include <dirent.h>
#include <linux/vm_sockets.h>
#include <systemd/sd-daemon.h>

#include "proto/text/number.hpp"
#include "server/daemon/listener.hpp"

namespace blockloom {
namespace {

control::Endpoint endpoint_of(const Listener& listener, const Config& config) {
  using Kind = control::Endpoint::Kind;
  control::Endpoint endpoint;
  endpoint.tls = config.tls.mode == TlsConfig::Mode::require;
  endpoint.port = listener.port;
  switch (listener.kind) {
    case Listener::Kind::tcp:
      endpoint.kind = Kind::tcp;
      if (listener.host != "*" && listener.host != "0.0.0.0" && listener.host != "::")
        endpoint.address = listener.host;
      break;
    case Listener::Kind::unix_socket:
      endpoint.kind = Kind::unix_socket;
      endpoint.address = listener.path;
      break;
    case Listener::Kind::vsock:
      endpoint.kind = Kind::vsock;
      if (listener.cid != VMADDR_CID_ANY) endpoint.address = std::to_string(listener.cid);
      break;
  }
  return endpoint;
}

std::vector<int> open_descriptors() {
  std::vector<int> found;
  const std::unique_ptr<DIR, int (*)(DIR*)> folder(::opendir("/proc/self/fd"), ::closedir);
  if (!folder) return found;
  while (const dirent* entry = ::readdir(folder.get())) {
    int fd = -1;
    if (parse_whole(entry->d_name, fd)) found.push_back(fd);
  }
  return found;
}

}  // namespace

std::vector<int> listening_sockets() {
  std::vector<int> found = open_descriptors();
  std::erase_if(found, [](int fd) { return ::sd_is_socket(fd, AF_UNSPEC, SOCK_STREAM, 1) <= 0; });
  return found;
}

std::vector<control::Endpoint> current_endpoints(const Config& config,
                                                 std::span<const int> others) {
  std::vector<control::Endpoint> found;
  for (const int fd : listening_sockets()) {
    if (std::find(others.begin(), others.end(), fd) != others.end()) continue;
    SocketAddress address;
    address.length = sizeof address.storage;
    if (::getsockname(fd, reinterpret_cast<sockaddr*>(&address.storage), &address.length) != 0)
      continue;
    const auto listener = listener_of(address);
    if (!listener) continue;
    found.push_back(endpoint_of(listener.value(), config));
  }
  if (found.empty())
    for (const Listener& listener : config.listen)
      found.push_back(endpoint_of(listener, config));
  return found;
}

}  // namespace blockloom
