#include "server/daemon/listener.hpp"

#include <cstring>
#include <limits>
#include <optional>

#include <arpa/inet.h>
#include <fmt/format.h>
#include <linux/vm_sockets.h>
#include <net/if.h>
#include <netinet/in.h>
#include <sys/un.h>

#include "proto/text/number.hpp"

namespace blockloom {
namespace {

constexpr std::string_view grammar =
    "expected tcp:ADDRESS[:PORT], unix:/PATH or vsock:[CID:]PORT, where ADDRESS is an IPv4 "
    "address, an IPv6 address in brackets, localhost, or * for all";

Error bad(std::string_view text, std::string_view why) {
  return Error{Errc::invalid, fmt::format("listener '{}': {}", text, why)};
}

std::optional<std::uint32_t> number(std::string_view word, std::uint32_t min, std::uint32_t max) {
  std::uint32_t n = 0;
  if (!parse_whole(word, n) || n < min || n > max) return std::nullopt;
  return n;
}

template <class T>
SocketAddress wrap(const T& address, std::size_t length = sizeof(T)) {
  SocketAddress a;
  std::memcpy(&a.storage, &address, length);
  a.length = static_cast<socklen_t>(length);
  return a;
}

SocketAddress ipv4(in_addr address, std::uint32_t port) {
  sockaddr_in in{};
  in.sin_family = AF_INET;
  in.sin_addr = address;
  in.sin_port = htons(static_cast<std::uint16_t>(port));
  return wrap(in);
}

SocketAddress ipv6(const in6_addr& address, std::uint32_t scope, std::uint32_t port) {
  sockaddr_in6 in{};
  in.sin6_family = AF_INET6;
  in.sin6_addr = address;
  in.sin6_scope_id = scope;
  in.sin6_port = htons(static_cast<std::uint16_t>(port));
  return wrap(in);
}

bool is_ipv4(const std::string& host) {
  in_addr ignored{};
  return inet_pton(AF_INET, host.c_str(), &ignored) == 1;
}

/// An IPv6 address, and after % an interface by name or number.
std::optional<SocketAddress> read_ipv6(const std::string& host, std::uint32_t port) {
  const std::size_t percent = host.find('%');
  in6_addr address{};
  if (inet_pton(AF_INET6, host.substr(0, percent).c_str(), &address) != 1) return std::nullopt;
  std::uint32_t scope = 0;
  if (percent != std::string::npos) {
    const std::string zone = host.substr(percent + 1);
    scope = if_nametoindex(zone.c_str());
    if (scope == 0) scope = number(zone, 1, std::numeric_limits<std::uint32_t>::max()).value_or(0);
    if (scope == 0) return std::nullopt;
  }
  return ipv6(address, scope, port);
}

Result<Listener> parse_tcp(std::string_view text, std::string_view rest) {
  Listener l;
  std::string_view port;
  bool has_port = false;
  if (rest.starts_with('[')) {
    const std::size_t close = rest.find(']');
    if (close == std::string_view::npos)
      return bad(text, "the bracket of the IPv6 address is not closed");
    l.host = rest.substr(1, close - 1);
    rest.remove_prefix(close + 1);
    if (!rest.empty() && rest.front() != ':') return bad(text, grammar);
    if (!read_ipv6(l.host, 0))
      return bad(text,
                 fmt::format("'{}' is not an IPv6 address (nor, after a %, an interface)", l.host));
    has_port = !rest.empty();
    port = has_port ? rest.substr(1) : rest;
  } else {
    const std::size_t colon = rest.find(':');
    has_port = colon != std::string_view::npos;
    l.host = rest.substr(0, colon);
    port = has_port ? rest.substr(colon + 1) : std::string_view{};
    if (port.find(':') != std::string_view::npos)
      return bad(text, "an IPv6 address stands in brackets, as in tcp:[::1]:10809");
    if (l.host != "*" && l.host != "localhost" && !is_ipv4(l.host)) return bad(text, grammar);
  }
  l.port = nbd_port;
  if (has_port) {
    const auto n = number(port, 1, 65535);
    if (!n) return bad(text, fmt::format("port '{}': expected a number from 1 to 65535", port));
    l.port = *n;
  }
  return l;
}

Result<Listener> parse_unix(std::string_view text, std::string_view rest) {
  Listener l;
  l.kind = Listener::Kind::unix_socket;
  l.path = rest;
  if (!rest.starts_with('/') || rest.ends_with('/'))
    return bad(text, "expected the absolute path of a socket");
  if (rest.size() >= sizeof(sockaddr_un::sun_path))
    return bad(text, fmt::format("the path has {} bytes; a Unix socket's may have {}", rest.size(),
                                 sizeof(sockaddr_un::sun_path) - 1));
  return l;
}

Result<Listener> parse_vsock(std::string_view text, std::string_view rest) {
  Listener l;
  l.kind = Listener::Kind::vsock;
  l.cid = VMADDR_CID_ANY;
  if (const std::size_t colon = rest.find(':'); colon != std::string_view::npos) {
    const std::string_view cid = rest.substr(0, colon);
    rest.remove_prefix(colon + 1);
    if (cid == "local") {
      l.cid = VMADDR_CID_LOCAL;
    } else if (cid == "host") {
      l.cid = VMADDR_CID_HOST;
    } else if (cid != "any") {
      const auto n = number(cid, 0, std::numeric_limits<std::uint32_t>::max() - 1);
      if (!n) return bad(text, fmt::format("CID '{}': expected a number, any, host or local", cid));
      l.cid = *n;
    }
  }
  const auto port = number(rest, 1, std::numeric_limits<std::uint32_t>::max() - 1);
  if (!port)
    return bad(text, fmt::format("port '{}': expected a number from 1 to 4294967294", rest));
  l.port = *port;
  return l;
}

std::string cid_text(std::uint32_t cid) {
  switch (cid) {
    case VMADDR_CID_ANY:
      return "any";
    case VMADDR_CID_LOCAL:
      return "local";
    case VMADDR_CID_HOST:
      return "host";
    default:
      return std::to_string(cid);
  }
}

bool is_loopback(const in6_addr& a) {
  return IN6_IS_ADDR_LOOPBACK(&a) || (IN6_IS_ADDR_V4MAPPED(&a) && a.s6_addr[12] == 127);
}

}  // namespace

Result<Listener> parse_listener(std::string_view text) {
  for (const char c : text)
    if (static_cast<unsigned char>(c) < 0x20 || c == 0x7f)
      return Error{Errc::invalid, fmt::format("a listener holds a control character; {}", grammar)};
  if (text.starts_with("tcp:")) return parse_tcp(text, text.substr(4));
  if (text.starts_with("unix:")) return parse_unix(text, text.substr(5));
  if (text.starts_with("vsock:")) return parse_vsock(text, text.substr(6));
  return bad(text, grammar);
}

std::string to_string(const Listener& l) {
  switch (l.kind) {
    case Listener::Kind::unix_socket:
      return "unix:" + l.path;
    case Listener::Kind::vsock:
      return fmt::format("vsock:{}:{}", cid_text(l.cid), l.port);
    case Listener::Kind::tcp:
      break;
  }
  const bool v6 = l.host.find(':') != std::string::npos;
  return v6 ? fmt::format("tcp:[{}]:{}", l.host, l.port) : fmt::format("tcp:{}:{}", l.host, l.port);
}

bool is_public(const Listener& l) {
  if (l.kind == Listener::Kind::unix_socket) return false;
  if (l.kind == Listener::Kind::vsock) return l.cid != VMADDR_CID_LOCAL;
  if (l.host == "localhost") return false;
  in_addr v4{};
  if (inet_pton(AF_INET, l.host.c_str(), &v4) == 1) return (ntohl(v4.s_addr) >> 24) != 127;
  in6_addr v6{};
  const std::string host = l.host.substr(0, l.host.find('%'));
  return inet_pton(AF_INET6, host.c_str(), &v6) != 1 || !is_loopback(v6);
}

std::vector<SocketAddress> addresses(const Listener& l) {
  if (l.kind == Listener::Kind::unix_socket) {
    sockaddr_un un{};
    un.sun_family = AF_UNIX;
    l.path.copy(un.sun_path, sizeof un.sun_path - 1);
    return {wrap(un)};
  }
  if (l.kind == Listener::Kind::vsock) {
    sockaddr_vm vm{};
    vm.svm_family = AF_VSOCK;
    vm.svm_cid = l.cid;
    vm.svm_port = l.port;
    return {wrap(vm)};
  }
  if (l.host == "localhost")
    return {ipv4({htonl(INADDR_LOOPBACK)}, l.port), ipv6(in6addr_loopback, 0, l.port)};
  if (l.host == "*") return {ipv4({htonl(INADDR_ANY)}, l.port), ipv6(in6addr_any, 0, l.port)};
  in_addr v4{};
  if (inet_pton(AF_INET, l.host.c_str(), &v4) == 1) return {ipv4(v4, l.port)};
  if (auto v6 = read_ipv6(l.host, l.port)) return {*v6};
  return {};  // the interface after the % is gone since the text was read
}

Result<Listener> listener_of(const SocketAddress& address) {
  Listener l;
  char text[INET6_ADDRSTRLEN] = {};
  switch (address.storage.ss_family) {
    case AF_INET: {
      const auto& in = reinterpret_cast<const sockaddr_in&>(address.storage);
      l.host = inet_ntop(AF_INET, &in.sin_addr, text, sizeof text);
      l.port = ntohs(in.sin_port);
      return l;
    }
    case AF_INET6: {
      const auto& in = reinterpret_cast<const sockaddr_in6&>(address.storage);
      l.host = inet_ntop(AF_INET6, &in.sin6_addr, text, sizeof text);
      if (in.sin6_scope_id != 0) l.host += fmt::format("%{}", in.sin6_scope_id);
      l.port = ntohs(in.sin6_port);
      return l;
    }
    case AF_UNIX: {
      const auto& un = reinterpret_cast<const sockaddr_un&>(address.storage);
      l.kind = Listener::Kind::unix_socket;
      const std::size_t room = address.length - offsetof(sockaddr_un, sun_path);
      l.path.assign(un.sun_path, strnlen(un.sun_path, room));
      return l;
    }
    case AF_VSOCK: {
      const auto& vm = reinterpret_cast<const sockaddr_vm&>(address.storage);
      l.kind = Listener::Kind::vsock;
      l.cid = vm.svm_cid;
      l.port = vm.svm_port;
      return l;
    }
    default:
      return Error{Errc::not_supported,
                   fmt::format("socket family {}: expected IPv4, IPv6, Unix or vsock",
                               address.storage.ss_family)};
  }
}

}  // namespace blockloom
