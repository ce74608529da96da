#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "proto/dump/bytes.hpp"
#include "proto/dump/stream.hpp"
#include "server/base/clock.hpp"
#include "server/base/error.hpp"
#include "server/dump/address.hpp"

namespace asio {
class io_context;
namespace ssl {
class context;
}
}  // namespace asio

namespace blockloom::dump {

/// One TCP connection of the stream protocol: frames in, frames out, checked as far as that goes
/// without knowing the dump. On the network's thread.
class StreamConnection : public std::enable_shared_from_this<StreamConnection> {
 public:
  /// Who takes the frames. After closed() nothing more comes.
  class User {
   public:
    virtual ~User() = default;
    /// The body is the user's to move away. False: no further frame is read before resume().
    virtual bool frame(StreamConnection& connection, const wire::Header& header,
                       std::vector<std::byte>& body) = 0;
    /// What follows is encrypted, and nobody read or changed it on its way.
    virtual void encrypted(StreamConnection& connection) = 0;
    /// Memory for the next body, which may be larger; what a user took away and is done with.
    virtual std::vector<std::byte> spare() = 0;
    virtual void closed(StreamConnection& connection, const std::string& why) = 0;
  };

  /// Takes the connected socket over.
  static std::shared_ptr<StreamConnection> make(asio::io_context& io, int fd, Address peer,
                                                User& user);
  virtual ~StreamConnection() = default;

  virtual void start() = 0;
  virtual void send(std::string frame) = 0;
  virtual void resume() = 0;  ///< reads on
  /// Once what is queued is sent, the peer's next bytes are TLS. The context outlives the
  /// connection.
  virtual void start_tls(asio::ssl::context& context) = 0;
  /// Sends what is queued, then closes; closed() runs.
  virtual void close_when_sent() = 0;
  virtual void close(const std::string& why) = 0;

  virtual const Address& peer() const noexcept = 0;
  void set_chunk(std::uint32_t chunk) noexcept { chunk_ = chunk; }

  std::uint64_t number = 0;  ///< the user's
  TimePoint heard{};         ///< when the last frame came

 protected:
  std::uint32_t chunk_ = 0;  // 0: before the hello only that is taken
};

}  // namespace blockloom::dump
