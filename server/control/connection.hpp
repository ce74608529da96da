#pragma once

#include <array>
#include <cstddef>
#include <deque>
#include <memory>
#include <string>
#include <string_view>

#include <asio/local/stream_protocol.hpp>
#include <asio/steady_timer.hpp>

#include "proto/control/line_buffer.hpp"
#include "server/control/server.hpp"
#include "server/control/watcher.hpp"

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
  using Socket = asio::local::stream_protocol::socket;

  Connection(Socket socket, Watcher::Owner id, const ServerLimits& limits, ConnectionHost& host);
  ~Connection();

  Watcher::Owner id() const noexcept { return id_; }
  void start();

  /// One text. Too much unsent closes the connection.
  void send(std::string text);

  // The number of requests that are not answered.
  void begin(std::size_t requests) noexcept { outstanding_ += requests; }
  void end(std::size_t requests);

  void close();
  /// Takes no more requests, and closes as soon as everything is sent.
  void close_when_sent();

 private:
  void read();
  void on_read(std::size_t bytes);
  void on_end_of_stream();
  void process();
  void refuse_long_line();
  bool account();
  void write();
  void on_written(std::size_t bytes);
  void close_if_over();

  Socket socket_;
  asio::steady_timer write_timer_;
  const Watcher::Owner id_;
  const ServerLimits& limits_;
  ConnectionHost& host_;

  std::array<char, 65536> input_;
  rpc::LineBuffer lines_;
  std::size_t accounted_ = 0;
  std::size_t outstanding_ = 0;
  std::deque<std::string> output_;
  std::size_t output_bytes_ = 0;
  std::size_t written_ = 0;  // of the first text
  bool reading_ = false, processing_ = false, writing_ = false;
  bool ended_ = false;    // nothing more is read
  bool closing_ = false;  // closes once everything is sent
  bool closed_ = false;
};

}  // namespace blockloom::control
