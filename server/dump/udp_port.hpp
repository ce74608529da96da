#pragma once

#include <cstddef>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "proto/dump/bytes.hpp"
#include "server/base/error.hpp"
#include "server/dump/address.hpp"
#include "server/dump/fd.hpp"
#include "server/dump/netdump.hpp"

namespace blockloom::dump {

/// A UDP socket that takes many datagrams in one call, knows which of the machine's addresses
/// each was sent to, and answers from that one. One thread.
class UdpPort {
 public:
  static Result<std::unique_ptr<UdpPort>> open(const BindPoint& where);
  ~UdpPort();
  UdpPort(const UdpPort&) = delete;
  UdpPort& operator=(const UdpPort&) = delete;

  int fd() const noexcept { return fd_.get(); }
  const BindPoint& where() const noexcept { return where_; }  ///< with the port that was bound

  using Receive = std::function<void(const UdpPeer& peer, ByteView bytes)>;
  /// What is there now, up to some hundreds; the views last for the call.
  void drain(const Receive& receive);

  /// Queues a datagram of at most 32 bytes; flush() sends all of them.
  void send(const UdpPeer& peer, ByteView bytes);
  void flush();

 private:
  struct Buffers;
  UdpPort(UniqueFd fd, BindPoint where);

  const UniqueFd fd_;
  BindPoint where_;
  std::unique_ptr<Buffers> buffers_;
};

}  // namespace blockloom::dump
