#pragma once

#include <string>
#include <vector>

namespace blockloom::nbd {

/// Finds the sockets of nbdkit's clients among the process's descriptors. nbdkit 1.32 ends only
/// when every client has hung up, and has no call that makes them; an idle one would hold a
/// SIGTERM up for ever. A client's socket is one that was accepted by one of nbdkit's listening
/// sockets, and so carries its address. Used by one thread at a time.
class ClientSockets {
 public:
  /// Takes down the addresses of all sockets that listen now: nbdkit's, and the control socket,
  /// whose clients go as well. Called after the fork.
  void note_listeners();

  /// Ends the reading side of every client's connection: what is in flight is still answered,
  /// and then nbdkit finds the end of the stream. Returns how many there were.
  std::size_t hang_up_reading() const { return shut_down_all(false); }

  /// Ends both sides, for clients that do not take their answers.
  std::size_t hang_up() const { return shut_down_all(true); }

 private:
  std::size_t shut_down_all(bool writing_too) const;
  bool is_client(int fd) const;

  std::vector<std::string> listeners_;  ///< as address_of() of client_sockets.cpp writes them
};

}  // namespace blockloom::nbd
