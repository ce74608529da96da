#pragma once

#include <cstdint>
#include <string>
#include <string_view>

#include "server/base/clock.hpp"
#include "server/base/error.hpp"

namespace blockloom {

/// Where an NBD leg's server is, and how to speak with it: a URI of the NBD project's form
/// (nbd/doc/uri.md) with parameters of our own.
///
///   nbd://HOST[:PORT]/EXPORT          nbds://[USER@]HOST[:PORT]/EXPORT          with TLS
///   nbd+unix:///EXPORT?socket=PATH    nbds+unix://[USER@]/EXPORT?socket=PATH
///   nbd+vsock://CID[:PORT]/EXPORT     nbds+vsock://…
///   ?tls-certificates=DIR &tls-psk-file=FILE &tls-verify-peer=yes|no
///   &connections=1…16 &timeout_ms=100…3600000 &connect_timeout_ms=100…60000
struct NbdUri {
  enum class Transport : std::uint8_t { tcp, unix_socket, vsock };
  static constexpr std::size_t max_export = 4096 - 64;  ///< NBD's limit, less an epoch's words

  Transport transport = Transport::tcp;
  bool tls = false;
  bool tls_verify_peer = true;
  std::string user;                            ///< for TLS with a PSK; empty: libnbd's choice
  std::string host;                            ///< tcp: a name or an address without brackets
  std::uint16_t port = 10809;                  ///< tcp, vsock
  std::uint32_t cid = 0;                       ///< vsock
  std::string socket;                          ///< unix: an absolute path
  std::string export_name;                     ///< may be empty: the server's default
  std::string tls_certificates, tls_psk_file;  ///< absolute paths; empty: libnbd's default
  unsigned connections = 1;
  /// Of a request to a plain target, from its arrival to its answer, waiting for a link included.
  Duration timeout = std::chrono::seconds(30);
  /// Of one attempt to connect, the handshake included.
  Duration connect_timeout = std::chrono::seconds(5);

  /// "nbd://host:10809", "nbd+unix:/run/x.sock": the server, for messages.
  std::string server() const;
};

bool is_nbd_uri(std::string_view uri);

/// Errors say what was expected, without the URI; opens nothing.
Result<NbdUri> parse_nbd_uri(std::string_view uri);

}  // namespace blockloom
