#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include <sys/socket.h>

#include "server/base/error.hpp"

namespace blockloom {

/// A place to accept NBD connections at, as the configuration writes it:
///   tcp:127.0.0.1[:PORT]  tcp:[::1][:PORT]  tcp:localhost[:PORT]  tcp:*[:PORT]
///   unix:/PATH            vsock:[CID:]PORT  (CID: a number, `any`, `host` or `local`)
/// Host names but localhost are refused: what is bound must not depend on a name service.
struct Listener {
  enum class Kind : std::uint8_t { tcp, unix_socket, vsock };

  Kind kind = Kind::tcp;
  std::string host;        ///< tcp: a numeric address, `localhost` or `*`
  std::uint32_t port = 0;  ///< tcp, vsock
  std::uint32_t cid = 0;   ///< vsock
  std::string path;        ///< unix
  unsigned mode = 0660;    ///< unix: permission bits of the socket
  bool insecure = false;   ///< public, and that is meant
  bool operator==(const Listener&) const = default;
};

inline constexpr std::uint32_t nbd_port = 10809;

/// Errors name the text and what was expected.
Result<Listener> parse_listener(std::string_view text);

/// In normal form: every part written out.
std::string to_string(const Listener& listener);

/// True when somebody from outside this machine's own users may connect: any address but
/// 127.0.0.0/8 and ::1, and vsock but for `local`: every guest of this host (or in a guest, its
/// host) reaches a vsock port, and no file mode keeps any of them out.
bool is_public(const Listener& listener);

/// A socket address ready for bind(2).
struct SocketAddress {
  sockaddr_storage storage{};
  socklen_t length = 0;
  const sockaddr* get() const noexcept { return reinterpret_cast<const sockaddr*>(&storage); }
};

/// The addresses to bind: two for `localhost` and `*` (IPv4 and IPv6), one otherwise.
std::vector<SocketAddress> addresses(const Listener& listener);

/// What a socket that somebody else opened is bound to; fails for a family not listed above.
Result<Listener> listener_of(const SocketAddress& address);

}  // namespace blockloom
