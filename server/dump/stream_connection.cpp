#include "server/dump/stream_connection.hpp"

#include <array>
#include <deque>
#include <optional>

#include <asio/io_context.hpp>
#include <asio/ip/tcp.hpp>
#include <asio/read.hpp>
#include <asio/ssl/stream.hpp>
#include <asio/write.hpp>
#include <fmt/format.h>
#include <isa-l.h>

#include "server/base/log.hpp"

namespace blockloom::dump {
namespace {

/// Answers that a peer does not take; ours are small, and few are under way.
constexpr std::size_t unsent_max = 1u << 20;

std::uint32_t fast_crc32c(std::vector<std::byte>& bytes) {
  return ~::crc32_iscsi(reinterpret_cast<unsigned char*>(bytes.data()),
                        static_cast<int>(bytes.size()), ~0u);
}

class Connection final : public StreamConnection {
 public:
  Connection(asio::io_context& io, int fd, Address peer, User& user)
      : socket_(io), peer_(peer), user_(user) {
    asio::error_code ignored;
    socket_.assign(peer.v4() ? asio::ip::tcp::v4() : asio::ip::tcp::v6(), fd, ignored);
    socket_.set_option(asio::ip::tcp::no_delay(true), ignored);
    socket_.set_option(asio::socket_base::keep_alive(true), ignored);
    // A machine that lost its power sends no FIN.
    const int idle = 30, interval = 10, count = 3;
    ::setsockopt(fd, IPPROTO_TCP, TCP_KEEPIDLE, &idle, sizeof idle);
    ::setsockopt(fd, IPPROTO_TCP, TCP_KEEPINTVL, &interval, sizeof interval);
    ::setsockopt(fd, IPPROTO_TCP, TCP_KEEPCNT, &count, sizeof count);
  }

  void start() override {
    heard = Clock::now();
    read_header();
  }

  void send(std::string frame) override {
    if (closed_) return;
    unsent_bytes_ += frame.size();
    if (unsent_bytes_ > unsent_max) return close("the peer takes no answers");
    unsent_.push_back(std::move(frame));
    if (unsent_.size() == 1) write();
  }

  void resume() override {
    if (!std::exchange(paused_, false) || closed_) return;
    read_header();
  }

  void start_tls(asio::ssl::context& context) override {
    tls_.emplace(socket_, context);
    if (unsent_.empty()) shake_hands();
  }

  void close_when_sent() override {
    closing_ = true;
    if (unsent_.empty()) close("");
  }

  void close(const std::string& why) override {
    if (std::exchange(closed_, true)) return;
    asio::error_code ignored;
    socket_.shutdown(asio::ip::tcp::socket::shutdown_both, ignored);
    socket_.close(ignored);
    user_.closed(*this, why);
  }

  const Address& peer() const noexcept override { return peer_; }

 private:
  std::shared_ptr<Connection> self() {
    return std::static_pointer_cast<Connection>(shared_from_this());
  }

  template <class Handler>
  void read(asio::mutable_buffer into, Handler handler) {
    if (tls_)
      asio::async_read(*tls_, into, std::move(handler));
    else
      asio::async_read(socket_, into, std::move(handler));
  }

  void shake_hands() {
    tls_->async_handshake(
        asio::ssl::stream_base::server, [me = self()](const asio::error_code& error) {
          if (me->closed_) return;
          if (error) {
            log_warning(fmt::format("dump stream from {}: the TLS handshake failed: {}",
                                    me->peer_.text(), error.message()));
            return me->close("no TLS");
          }
          me->secure_ = true;
          me->paused_ = false;
          me->user_.encrypted(*me);
          if (!me->closed_) me->read_header();
        });
  }

  void read_header() {
    read(asio::buffer(header_bytes_), [me = self()](const asio::error_code& error, std::size_t) {
      if (me->closed_) return;
      if (error) return me->close(error.message());
      me->got_header();
    });
  }

  void got_header() {
    if (!wire::decode(header_bytes_.data(), header_)) return close("a damaged frame");
    const bool greeted = chunk_ != 0;
    if (!greeted && header_.type != wire::hello && header_.type != wire::start_tls)
      return close("no hello");
    if (header_.length > wire::body_max(header_.type, chunk_))
      return close(fmt::format("a frame of type {} and {} bytes", header_.type, header_.length));
    // New memory for each chunk would cost more than its checksum.
    if (body_.capacity() < header_.length) body_ = user_.spare();
    body_.resize(header_.length);
    if (header_.length == 0) return got_body();
    read(asio::buffer(body_), [me = self()](const asio::error_code& error, std::size_t) {
      if (me->closed_) return;
      if (error) return me->close(error.message());
      me->got_body();
    });
  }

  void got_body() {
    if (!body_.empty() && fast_crc32c(body_) != header_.body_crc)
      return close("a frame whose CRC is wrong");
    heard = Clock::now();
    const bool more = user_.frame(*this, header_, body_);
    if (closed_) return;
    if (more)
      read_header();
    else
      paused_ = true;
  }

  void write() {
    const auto written = [me = self()](const asio::error_code& error, std::size_t) {
      if (me->closed_) return;
      if (error) return me->close(error.message());
      me->unsent_bytes_ -= me->unsent_.front().size();
      me->unsent_.pop_front();
      if (!me->unsent_.empty())
        me->write();
      else if (me->closing_)
        me->close("");
      else if (me->tls_ && !me->secure_)
        me->shake_hands();
    };
    if (secure_)
      asio::async_write(*tls_, asio::buffer(unsent_.front()), written);
    else
      asio::async_write(socket_, asio::buffer(unsent_.front()), written);
  }

  asio::ip::tcp::socket socket_;
  std::optional<asio::ssl::stream<asio::ip::tcp::socket&>> tls_;
  const Address peer_;
  User& user_;
  std::array<unsigned char, wire::header_size> header_bytes_{};
  wire::Header header_;
  std::vector<std::byte> body_;
  std::deque<std::string> unsent_;
  std::size_t unsent_bytes_ = 0;
  bool paused_ = false, closing_ = false, closed_ = false, secure_ = false;
};

}  // namespace

std::shared_ptr<StreamConnection> StreamConnection::make(asio::io_context& io, int fd, Address peer,
                                                         User& user) {
  return std::make_shared<Connection>(io, fd, peer, user);
}

}  // namespace blockloom::dump
