#pragma once

#include <array>

#include "plugins/nbdkit/client_streams.hpp"
#include "plugins/nbdkit/imports.hpp"

namespace blockloom::nbd {

/// Leads nbdkit's own calls of read, send, shutdown and close through here, by way of its import
/// table, for two ends that nothing nbdkit offers to plugins reaches. The plugin's and the
/// libraries' calls (TLS) are not touched.
///
/// Speed: ClientStreams serves several requests with one system call.
///
/// Life: nbdkit 1.32.5 (Debian 12's) often aborts when a client dies with requests in flight. The
/// worker whose answer fails to go out marks the connection dead and forgets its socket, while
/// another, past its check of that mark, is about to send, and asserts that there is a socket
/// (connections.c, raw_send_socket). One client's crash would end the service for all. So
/// - send to a client that is gone is not a failure: the connection's end is found by reading;
/// - read tells of a reset connection as of a closed one, which nbdkit ends in an orderly way;
/// - shutdown, which precedes the forgetting, waits a moment for answers that are on their way.
///
/// One in a process. Installed before nbdkit serves, removed when its connections have ended; both
/// while it has one thread.
class SocketHooks {
 public:
  ~SocketHooks() { remove(); }
  /// False where the import table has not the expected shape; then nothing has changed.
  bool install() noexcept;
  void remove() noexcept;

 private:
  std::array<Import, 4> imports_{};
  ClientStreams streams_;
  bool installed_ = false;
};

}  // namespace blockloom::nbd
