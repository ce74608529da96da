#include "server/iscsi/io_thread.hpp"

#include <array>
#include <atomic>
#include <cerrno>
#include <exception>
#include <thread>
#include <unordered_map>
#include <utility>
#include <vector>

#include <asio/executor_work_guard.hpp>
#include <asio/io_context.hpp>
#include <asio/ip/tcp.hpp>
#include <asio/post.hpp>
#include <asio/steady_timer.hpp>
#include <fmt/format.h>
#include <sys/socket.h>
#include <sys/uio.h>
#include <unistd.h>

#include "server/base/log.hpp"
#include "server/base/thread.hpp"
#include "server/iscsi/connection.hpp"
#include "server/iscsi/wire.hpp"

namespace blockloom::iscsi {
namespace {

using Socket = asio::ip::tcp::socket;

/// Reads in one turn before other connections have theirs.
constexpr int reads_in_a_turn = 4;
/// Writes likewise; each is of up to a MiB.
constexpr int writes_in_a_turn = 16;
/// For initiators to hear that the server stops.
constexpr Duration stop_grace = std::chrono::milliseconds(500);

}  // namespace

class IoThread::Impl final : public Mailbox {
 public:
  Impl(Node& node, unsigned number) : node_(node) {
    thread_ = std::thread([this, number] { run(number); });
  }

  void serve(int fd, Peer peer);
  void begin_stop();
  void join() {
    if (thread_.joinable()) thread_.join();
  }

  std::atomic<std::size_t> connections{0};
  std::atomic<bool> begun_{false};

 private:
  class SocketWire;
  using WirePtr = std::shared_ptr<SocketWire>;

  void wake() noexcept override {
    asio::post(io_, [this] {
      drain();
      flush();
    });
  }
  void run(unsigned number);
  void admit(int fd, Peer peer);
  void flush();
  void bury(SocketWire& wire);

  Node& node_;
  asio::io_context io_{1};
  asio::executor_work_guard<asio::io_context::executor_type> work_{io_.get_executor()};
  asio::steady_timer stop_timer_{io_};
  std::unordered_map<SocketWire*, WirePtr> wires_;
  std::vector<WirePtr> to_send_;  // those that have something new
  bool stopping_ = false;
  std::thread thread_;
};

class IoThread::Impl::SocketWire final : public Wire,
                                         public std::enable_shared_from_this<SocketWire> {
 public:
  SocketWire(Impl& thread, Socket socket, Peer peer)
      : thread_(thread),
        socket_(std::move(socket)),
        timer_(thread.io_),
        connection_(std::make_shared<Connection>(thread.node_, *this, std::move(peer))) {}

  void start() {
    connection_->start();
    wait_readable();
  }
  void kick() { connection_->kick("the server stops"); }
  void cut() { connection_->lost("the server stops"); }
  void flush();

  Mailbox& mailbox() noexcept override { return thread_; }
  void send_soon() noexcept override {
    if (sending_soon_ || waiting_writable_ || closed_) return;
    sending_soon_ = true;
    thread_.to_send_.push_back(shared_from_this());
  }
  void read_soon() noexcept override;
  void tick_at(TimePoint when) noexcept override;
  void close() noexcept override;
  void over() noexcept override { thread_.bury(*this); }

 private:
  void wait_readable();
  void read();
  void wait_writable();

  Impl& thread_;
  Socket socket_;
  asio::steady_timer timer_;
  const std::shared_ptr<Connection> connection_;
  TimePoint tick_at_ = TimePoint::max();
  bool closed_ = false;
  bool waiting_readable_ = false, reading_soon_ = false;
  bool sending_soon_ = false, waiting_writable_ = false;
};

void IoThread::Impl::SocketWire::wait_readable() {
  if (closed_ || waiting_readable_ || !connection_->wants_read()) return;
  waiting_readable_ = true;
  socket_.async_wait(Socket::wait_read, [self = shared_from_this()](const asio::error_code& error) {
    self->waiting_readable_ = false;
    if (self->closed_) return;
    if (error) return self->connection_->lost(error.message());
    self->read();
    self->thread_.flush();
  });
}

void IoThread::Impl::SocketWire::read() {
  for (int turn = 0; turn < reads_in_a_turn && !closed_ && connection_->wants_read(); ++turn) {
    std::array<iovec, 2> space;
    msghdr message{};
    message.msg_iov = space.data();
    message.msg_iovlen = connection_->space(space);
    const std::size_t room = space[0].iov_len + (message.msg_iovlen == 2 ? space[1].iov_len : 0);
    const ssize_t n = ::recvmsg(socket_.native_handle(), &message, MSG_DONTWAIT);
    if (n < 0 && errno == EINTR) continue;
    if (n < 0 && (errno == EAGAIN || errno == EWOULDBLOCK)) break;
    if (n < 0) return connection_->lost("the connection failed");
    if (n == 0) return connection_->lost("the initiator closed the connection");
    connection_->received(static_cast<std::size_t>(n));
    if (static_cast<std::size_t>(n) < room) break;
  }
  connection_->idle();
  wait_readable();
}

void IoThread::Impl::SocketWire::read_soon() noexcept {
  if (waiting_readable_ || reading_soon_ || closed_) return;
  reading_soon_ = true;
  asio::post(thread_.io_, [self = shared_from_this()] {
    self->reading_soon_ = false;
    if (self->closed_) return;
    self->connection_->go_on();
    self->connection_->idle();
    self->wait_readable();
    self->thread_.flush();
  });
}

void IoThread::Impl::SocketWire::flush() {
  sending_soon_ = false;
  for (int turn = 0; turn < writes_in_a_turn; ++turn) {
    if (closed_ || waiting_writable_) return;
    std::array<iovec, SendQueue::max_iovecs> pieces;
    msghdr message{};
    message.msg_iov = pieces.data();
    message.msg_iovlen = connection_->gather(pieces);
    if (message.msg_iovlen == 0) return;
    const ssize_t n = ::sendmsg(socket_.native_handle(), &message, MSG_DONTWAIT | MSG_NOSIGNAL);
    if (n < 0 && errno == EINTR) continue;
    if (n < 0 && (errno == EAGAIN || errno == EWOULDBLOCK)) break;
    if (n < 0) return connection_->lost("the connection failed");
    connection_->sent(static_cast<std::size_t>(n));
  }
  wait_writable();
}

void IoThread::Impl::SocketWire::wait_writable() {
  if (closed_ || waiting_writable_) return;
  waiting_writable_ = true;
  socket_.async_wait(Socket::wait_write,
                     [self = shared_from_this()](const asio::error_code& error) {
                       self->waiting_writable_ = false;
                       if (self->closed_) return;
                       if (error) return self->connection_->lost(error.message());
                       self->flush();
                       self->thread_.flush();
                     });
}

void IoThread::Impl::SocketWire::tick_at(TimePoint when) noexcept {
  if (closed_ || when >= tick_at_) return;  // an earlier tick asks again
  tick_at_ = when;
  timer_.expires_at(when);
  timer_.async_wait([self = shared_from_this(), when](const asio::error_code& error) {
    if (error || self->closed_ || self->tick_at_ != when) return;
    self->tick_at_ = TimePoint::max();
    self->connection_->tick(Clock::now());
    self->thread_.flush();
  });
}

void IoThread::Impl::SocketWire::close() noexcept {
  if (std::exchange(closed_, true)) return;
  timer_.cancel();
  asio::error_code ignored;
  socket_.shutdown(Socket::shutdown_both, ignored);
  socket_.close(ignored);
}

void IoThread::Impl::serve(int fd, Peer peer) {
  ++connections;
  post([this, fd, peer = std::move(peer)] { admit(fd, peer); });
}

void IoThread::Impl::admit(int fd, Peer peer) {
  Socket socket(io_);
  asio::error_code error;
  socket.assign(peer.v6 ? asio::ip::tcp::v6() : asio::ip::tcp::v4(), fd, error);
  if (!error && stopping_) error = asio::error::operation_aborted;
  if (error) {
    if (!socket.is_open()) ::close(fd);
    --connections;
    node_.not_logged_in();
    return node_.count_out();
  }
  const auto wire = std::make_shared<SocketWire>(*this, std::move(socket), std::move(peer));
  wires_.emplace(wire.get(), wire);
  wire->start();
}

void IoThread::Impl::flush() {
  for (std::size_t i = 0; i < to_send_.size(); ++i) {
    const WirePtr wire = to_send_[i];
    wire->flush();
  }
  to_send_.clear();
}

void IoThread::Impl::bury(SocketWire& wire) {
  const auto found = wires_.find(&wire);
  if (found == wires_.end()) return;
  --connections;
  // Whoever called this may still be inside of it.
  asio::post(io_, [this, last = std::move(found->second)] {
    if (stopping_ && wires_.empty()) {
      stop_timer_.cancel();
      work_.reset();
    }
  });
  wires_.erase(found);
}

void IoThread::Impl::begin_stop() {
  if (begun_.exchange(true)) return;
  post([this] {
    stopping_ = true;
    if (wires_.empty()) return work_.reset();
    const auto all = wires_;  // a wire takes itself out
    for (const auto& [key, wire] : all)
      wire->kick();
    flush();
    stop_timer_.expires_after(stop_grace);
    stop_timer_.async_wait([this](const asio::error_code& error) {
      if (error) return;
      const auto left = wires_;
      for (const auto& [key, wire] : left)
        wire->cut();
    });
  });
}

void IoThread::Impl::run(unsigned number) {
  block_signals();
  set_thread_name(fmt::format("bl-iscsi-{}", number));
  for (;;) {
    try {
      io_.run();
      return;
    } catch (const std::exception& exception) {
      log_error(fmt::format("iscsi: {}", exception.what()));
    }
  }
}

IoThread::IoThread(Node& node, unsigned number) : impl_(std::make_unique<Impl>(node, number)) {}

IoThread::~IoThread() {
  impl_->begin_stop();
  impl_->join();
}

void IoThread::serve(int fd, Peer peer) {
  impl_->serve(fd, std::move(peer));
}

std::size_t IoThread::connections() const noexcept {
  return impl_->connections.load(std::memory_order_relaxed);
}

void IoThread::begin_stop() {
  impl_->begin_stop();
}

void IoThread::join() {
  impl_->join();
}

}  // namespace blockloom::iscsi
