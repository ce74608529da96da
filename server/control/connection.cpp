#include "server/control/connection.hpp"

#include <utility>

#include <asio/buffer.hpp>
#include <fmt/format.h>

#include "server/base/log.hpp"
#include "server/control/error_code.hpp"

namespace blockloom::control {

Connection::Connection(Socket socket, Watcher::Owner id, const ServerLimits& limits,
                       ConnectionHost& host)
    : socket_(std::move(socket)),
      write_timer_(socket_.get_executor()),
      id_(id),
      limits_(limits),
      host_(host),
      lines_(limits.request_bytes) {}

Connection::~Connection() = default;

void Connection::start() {
  read();
}

void Connection::read() {
  if (closed_ || ended_ || reading_) return;
  reading_ = true;
  socket_.async_read_some(
      asio::buffer(input_),
      [self = shared_from_this()](const asio::error_code& error, std::size_t bytes) {
        self->reading_ = false;
        if (self->closed_) return;
        if (error == asio::error::eof) return self->on_end_of_stream();
        if (error) return self->close();
        self->on_read(bytes);
      });
}

void Connection::on_read(std::size_t bytes) {
  lines_.append({input_.data(), bytes});
  process();
}

void Connection::on_end_of_stream() {
  ended_ = true;
  // A client may send its requests, close its half, and read the answers. One that went away
  // altogether is noticed by this, so that its waits do not stay.
  socket_.async_wait(Socket::wait_error,
                     [self = shared_from_this()](const asio::error_code&) { self->close(); });
  process();
}

void Connection::process() {
  if (processing_) return;
  processing_ = true;
  const auto self = shared_from_this();
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

void Connection::refuse_long_line() {
  send(rpc::write_failure({},
                          {rpc::code::invalid_request,
                           fmt::format("a request is longer than {} bytes", limits_.request_bytes),
                           {}}));
  close_when_sent();
}

bool Connection::account() {
  const std::size_t now = lines_.size();
  const auto change = static_cast<std::ptrdiff_t>(now) - static_cast<std::ptrdiff_t>(accounted_);
  accounted_ = now;
  if (host_.buffered(change) || change <= 0) return true;
  send(rpc::write_failure(
      {}, to_failure({Errc::limit, "the server holds too many unfinished requests"})));
  close_when_sent();
  return false;
}

void Connection::end(std::size_t requests) {
  outstanding_ -= requests;
  if (!closed_) process();
}

void Connection::send(std::string text) {
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

void Connection::write() {
  if (closed_) return;
  writing_ = true;
  write_timer_.expires_after(limits_.write_timeout);
  write_timer_.async_wait([self = shared_from_this()](const asio::error_code& error) {
    // One that expired just before it was set anew runs without an error: ask the clock.
    if (error || self->closed_ || !self->writing_ || self->write_timer_.expiry() > Clock::now())
      return;
    log_warning("control: a client that does not read its answers was dropped");
    self->close();
  });
  socket_.async_write_some(
      asio::buffer(output_.front().data() + written_, output_.front().size() - written_),
      [self = shared_from_this()](const asio::error_code& error, std::size_t bytes) {
        if (self->closed_) return;
        if (error) return self->close();
        self->on_written(bytes);
      });
}

void Connection::on_written(std::size_t bytes) {
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

void Connection::close_if_over() {
  if (!output_.empty()) return;
  if (closing_ || (ended_ && outstanding_ == 0)) close();
}

void Connection::close_when_sent() {
  closing_ = true;
  close_if_over();
}

void Connection::close() {
  if (closed_) return;
  closed_ = true;
  asio::error_code ignored;
  socket_.close(ignored);
  write_timer_.cancel();
  host_.buffered(-static_cast<std::ptrdiff_t>(accounted_));
  host_.closed(*this);
}

}  // namespace blockloom::control
