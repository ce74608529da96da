#include "server/control/connection.hpp"

#include <array>
#include <deque>
#include <utility>

#include <asio/buffer.hpp>
#include <asio/io_context.hpp>
#include <asio/local/stream_protocol.hpp>
#include <asio/steady_timer.hpp>
#include <fmt/format.h>

#include "proto/control/line_buffer.hpp"
#include "server/base/log.hpp"
#include "server/control/error_code.hpp"

namespace blockloom::control {

namespace {

using Socket = asio::local::stream_protocol::socket;

class SocketConnection final : public Connection {
 public:
  SocketConnection(Socket socket, Watcher::Owner id, const ServerLimits& limits,
                   ConnectionHost& host);

  void start() override;
  void send(std::string text) override;
  void begin(std::size_t requests) noexcept override { outstanding_ += requests; }
  void end(std::size_t requests) override;
  void close() override;
  void close_when_sent() override;

 private:
  std::shared_ptr<SocketConnection> self() {
    return std::static_pointer_cast<SocketConnection>(shared_from_this());
  }
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

SocketConnection::SocketConnection(Socket socket, Watcher::Owner id, const ServerLimits& limits,
                                   ConnectionHost& host)
    : Connection(id),
      socket_(std::move(socket)),
      write_timer_(socket_.get_executor()),
      limits_(limits),
      host_(host),
      lines_(limits.request_bytes) {}

void SocketConnection::start() {
  read();
}

void SocketConnection::read() {
  if (closed_ || ended_ || reading_) return;
  reading_ = true;
  socket_.async_read_some(asio::buffer(input_),
                          [self = self()](const asio::error_code& error, std::size_t bytes) {
                            self->reading_ = false;
                            if (self->closed_) return;
                            if (error == asio::error::eof) return self->on_end_of_stream();
                            if (error) return self->close();
                            self->on_read(bytes);
                          });
}

void SocketConnection::on_read(std::size_t bytes) {
  lines_.append({input_.data(), bytes});
  process();
}

void SocketConnection::on_end_of_stream() {
  ended_ = true;
  // A client may send its requests, close its half, and read the answers. One that went away
  // altogether is noticed by this, so that its waits do not stay.
  socket_.async_wait(Socket::wait_error,
                     [self = self()](const asio::error_code&) { self->close(); });
  process();
}

void SocketConnection::process() {
  if (processing_) return;
  processing_ = true;
  const auto alive = self();
  while (!closed_ && !closing_ && outstanding_ < limits_.outstanding) {
    const auto line = lines_.next();
    if (!line) break;
    host_.received(*this, *line);
  }
  processing_ = false;
  if (closed_) return;
  if (lines_.overflowed() && !closing_) return refuse_long_line();
  if (!account()) return;
  if (outstanding_ < limits_.outstanding) read();
  close_if_over();
}

void SocketConnection::refuse_long_line() {
  send(rpc::write_failure({},
                          {rpc::code::invalid_request,
                           fmt::format("a request is longer than {} bytes", limits_.request_bytes),
                           {}}));
  close_when_sent();
}

bool SocketConnection::account() {
  const std::size_t now = lines_.size();
  const auto change = static_cast<std::ptrdiff_t>(now) - static_cast<std::ptrdiff_t>(accounted_);
  accounted_ = now;
  if (host_.buffered(change) || change <= 0) return true;
  send(rpc::write_failure(
      {}, to_failure({Errc::limit, "the server holds too many unfinished requests"})));
  close_when_sent();
  return false;
}

void SocketConnection::end(std::size_t requests) {
  outstanding_ -= requests;
  if (!closed_) process();
}

void SocketConnection::send(std::string text) {
  if (closed_) return;
  if (output_bytes_ > 0 && output_bytes_ + text.size() > limits_.backlog_bytes) {
    log_warning(
        fmt::format("control: a client that does not read its answers was dropped ({} "
                    "bytes were waiting)",
                    output_bytes_));
    return close();
  }
  text += '\n';
  output_bytes_ += text.size();
  output_.push_back(std::move(text));
  if (!writing_) write();
}

void SocketConnection::write() {
  if (closed_) return;
  writing_ = true;
  write_timer_.expires_after(limits_.write_timeout);
  write_timer_.async_wait([self = self()](const asio::error_code& error) {
    // One that expired just before it was set anew runs without an error: ask the clock.
    if (error || self->closed_ || !self->writing_ || self->write_timer_.expiry() > Clock::now())
      return;
    log_warning("control: a client that does not read its answers was dropped");
    self->close();
  });
  socket_.async_write_some(
      asio::buffer(output_.front().data() + written_, output_.front().size() - written_),
      [self = self()](const asio::error_code& error, std::size_t bytes) {
        if (self->closed_) return;
        if (error) return self->close();
        self->on_written(bytes);
      });
}

void SocketConnection::on_written(std::size_t bytes) {
  written_ += bytes;
  output_bytes_ -= bytes;
  if (written_ == output_.front().size()) {
    output_.pop_front();
    written_ = 0;
  }
  if (!output_.empty()) return write();
  writing_ = false;
  write_timer_.cancel();
  close_if_over();
}

void SocketConnection::close_if_over() {
  if (!output_.empty()) return;
  if (closing_ || (ended_ && outstanding_ == 0)) close();
}

void SocketConnection::close_when_sent() {
  closing_ = true;
  close_if_over();
}

void SocketConnection::close() {
  if (closed_) return;
  closed_ = true;
  asio::error_code ignored;
  socket_.close(ignored);
  write_timer_.cancel();
  host_.buffered(-static_cast<std::ptrdiff_t>(accounted_));
  host_.closed(*this);
}

}  // namespace

std::shared_ptr<Connection> Connection::make(asio::io_context& io, int fd, Watcher::Owner id,
                                             const ServerLimits& limits, ConnectionHost& host) {
  return std::make_shared<SocketConnection>(Socket(io, asio::local::stream_protocol(), fd), id,
                                            limits, host);
}

}  // namespace blockloom::control
