#pragma once

namespace blockloom::nbd {

/// Keeps nbdkit alive when a client dies with requests in flight. nbdkit 1.32.5 (Debian 12's)
/// aborts then, often: the worker whose answer fails to go out marks the connection dead and
/// forgets its socket, while another, past its check of that mark, is about to send, and asserts
/// that there is a socket (connections.c, raw_send_socket). One client's crash would end the
/// service for all.
///
/// Nothing that nbdkit offers to plugins reaches this. So while the guard is installed, nbdkit's
/// own calls of send, read and shutdown come through here, by way of its import table:
/// - send to a client that is gone is not a failure: the connection's end is found by reading.
/// - read tells of a reset connection as of a closed one, which nbdkit ends in an orderly way.
/// - shutdown, which precedes the forgetting, waits a moment for answers that are on their way.
/// The plugin's and the libraries' own calls are not touched. Harmless on versions without the
/// fault.
///
/// Both are called while nbdkit has one thread: install() before it serves, remove() after.
class ClientDeathGuard {
 public:
  /// False where the import table has not the expected shape; then nothing has changed.
  bool install() noexcept;
  void remove() noexcept;

 private:
  bool installed_ = false;
};

}  // namespace blockloom::nbd
