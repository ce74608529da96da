#pragma once

#include <cstddef>
#include <memory>
#include <string>
#include <string_view>

#include "server/control/server.hpp"
#include "server/control/watcher.hpp"

namespace asio {
class io_context;
}

namespace blockloom::control {

class Connection;

/// What a connection needs of the server that has it.
class ConnectionHost {
 public:
  virtual ~ConnectionHost() = default;
  /// A text has come. The host says begin() and end() for its requests.
  virtual void received(Connection& connection, std::string_view text) = 0;
  /// The bytes that connections keep change by this much. False: that is too many.
  virtual bool buffered(std::ptrdiff_t change) = 0;
  /// The connection is closed; the host lets go of it.
  virtual void closed(Connection& connection) = 0;
};

/// One client: reads lines, and reads no further while too many requests are outstanding; writes
/// answers, and gives up on a reader that is too slow. Lives on the control thread.
class Connection : public std::enable_shared_from_this<Connection> {
 public:
  /// Takes the descriptor over. The limits and the host outlive the connection.
  static std::shared_ptr<Connection> make(asio::io_context& io, int fd, Watcher::Owner id,
                                          const ServerLimits& limits, ConnectionHost& host);
  virtual ~Connection() = default;
  Connection(const Connection&) = delete;
  Connection& operator=(const Connection&) = delete;

  Watcher::Owner id() const noexcept { return id_; }
  virtual void start() = 0;

  /// One text. Too much unsent closes the connection.
  virtual void send(std::string text) = 0;

  // The number of requests that are not answered.
  virtual void begin(std::size_t requests) noexcept = 0;
  virtual void end(std::size_t requests) = 0;

  virtual void close() = 0;
  /// Takes no more requests, and closes as soon as everything is sent.
  virtual void close_when_sent() = 0;

 protected:
  explicit Connection(Watcher::Owner id) : id_(id) {}

 private:
  const Watcher::Owner id_;
};

}  // namespace blockloom::control
