#pragma once

#include <array>
#include <atomic>
#include <cstddef>

#include <sys/types.h>

namespace blockloom::nbd {

/// Carries the bytes between nbdkit and its clients with fewer system calls than nbdkit makes
/// itself. nbdkit reads each request's header and payload with a call each, and sends an answer in
/// up to three parts; at 4 KiB that is most of a request's cost.
/// - receive() reads ahead: what lies in the socket beyond what was asked for is kept, and the
///   next calls are answered from it. It starts with a connection's first request, so that nothing
///   of a handshake, which may turn to TLS, is taken early. Not over TCP: there the client and the
///   server only took turns then, and 4 KiB writes at queue depth 64 lost a sixth of their rate.
/// - send() keeps the parts of an answer that are marked with MSG_MORE, and sends them in one call
///   with the part that ends it.
/// Both also keep nbdkit 1.32 from aborting when a client dies; see SocketHooks.
///
/// Takes the place of read(2), send(2) and close(2), with their arguments and results, for any
/// descriptor. As in nbdkit, one thread at a time receives from a descriptor, one sends to it, and
/// none does either when it is closed. Only descriptors closed through close() are kept books of.
class ClientStreams {
 public:
  /// What is read ahead at most, for a connection, in bytes. Enough for many headers, or a 4 KiB
  /// write with the next one's header; more only costs the copy.
  static constexpr std::size_t read_ahead = 8 * 1024;

  ClientStreams() = default;
  ~ClientStreams();
  ClientStreams(const ClientStreams&) = delete;
  ClientStreams& operator=(const ClientStreams&) = delete;

  ssize_t receive(int fd, void* data, std::size_t length) noexcept;
  ssize_t send(int fd, const void* data, std::size_t length, int flags) noexcept;
  int close(int fd) noexcept;

 private:
  struct Stream;
  static constexpr std::size_t most_descriptors = 8192;  // those above are carried plainly

  Stream* find(int fd) const noexcept;
  Stream* make(int fd) noexcept;  ///< null without memory or beyond the bound: carry plainly

  std::array<std::atomic<Stream*>, most_descriptors> streams_{};
};

}  // namespace blockloom::nbd
