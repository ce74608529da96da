#pragma once

#include <cstddef>
#include <cstdint>

#include "clients/blockloom-dump/tls.hpp"
#include "proto/dump/stream_wire.hpp"

namespace blockloom::sender {

/// A TCP connection that carries frames; no call waits longer than it is told.
class Link {
 public:
  ~Link() { close(); }

  /// `address` is numeric. False, and `why` says so.
  bool connect(const char* address, const char* port, int timeout_ms, const char** why);
  /// From here on all is encrypted. False: closed, and `why` says so.
  bool start_tls(const TlsKeys& keys, const char* server, int timeout_ms, const char** why);
  bool encrypted() const { return tls_.active(); }
  /// What poll() of fd() does not tell: something is here already.
  bool pending() const { return tls_.pending(); }
  void close();
  bool connected() const { return fd_ >= 0; }
  int fd() const { return fd_; }

  /// Sends a whole frame; what the server sends meanwhile is kept for receive(). False: the
  /// connection is broken.
  bool send(std::uint16_t type, std::uint64_t offset, const void* body, std::size_t size,
            std::uint32_t crc);
  bool send(std::uint16_t type, std::uint64_t offset, const void* body, std::size_t size);

  enum class Got { frame, nothing, broken };
  /// The next frame if one is there within the time. Its body, with a 0 behind it, is in body().
  Got receive(dump::wire::Header& header, int timeout_ms);
  const char* body() const { return reinterpret_cast<const char*>(in_) + dump::wire::header_size; }

 private:
  bool flush(const unsigned char* bytes, std::size_t size);
  long put(const void* bytes, std::size_t size);
  long take(void* bytes, std::size_t size);
  bool wait(short otherwise, int timeout_ms);
  bool fill(int timeout_ms);

  int fd_ = -1;
  Tls tls_;
  // One frame of the server's is small: lines, or an ack.
  unsigned char in_[dump::wire::header_size + dump::wire::text_max + 1] = {};
  std::size_t have_ = 0;
  std::size_t taken_ = 0;   // of the frame that was given out
  unsigned char kept_ = 0;  // what stands behind it
};

}  // namespace blockloom::sender
