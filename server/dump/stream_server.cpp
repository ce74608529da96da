#include <algorithm>

#include <fmt/format.h>
#include <sys/random.h>
#include <unistd.h>

#include "server/base/log.hpp"
#include "server/dump/stream_impl.hpp"

namespace blockloom::dump {
namespace {

constexpr Duration quiet = std::chrono::minutes(2);  // a connection without a frame

std::string nonce() {
  unsigned char bytes[wire::nonce_size];
  std::size_t have = 0;
  while (have < sizeof bytes) {
    const ssize_t n = ::getrandom(bytes + have, sizeof bytes - have, 0);
    if (n > 0) have += static_cast<std::size_t>(n);
  }
  char hex[2 * sizeof bytes + 1];
  to_hex(bytes, sizeof bytes, hex);
  return hex;
}

bool same_secret(std::string_view a, std::string_view b) noexcept {
  unsigned char different = a.size() == b.size() ? 0 : 1;
  for (std::size_t i = 0; i < std::min(a.size(), b.size()); ++i)
    different |= static_cast<unsigned char>(a[i] ^ b[i]);
  return different == 0;
}

}  // namespace

void StreamServer::Impl::add(UniqueFd listening) {
  listeners_.push_back(TcpListener::make(io_, std::move(listening),
                                         [this](int fd, const Address& peer) { admit(fd, peer); }));
}

void StreamServer::Impl::admit(int fd, Address peer) {
  ++counters_.connections;
  if (!host_.allowed(peer) || guests_.size() >= settings_.connections) {
    ++counters_.refused;
    ::close(fd);
    return;
  }
  const auto connection = StreamConnection::make(io_, fd, peer, *this);
  connection->number = next_number_++;
  Guest& guest = guests_[connection->number];
  guest.connection = connection;
  connection->start();
  greet(guest);
}

void StreamServer::Impl::greet(Guest& guest) {
  guest.nonce = nonce();
  const char* const tls = guest.encrypted             ? "active"
                          : settings_.tls == nullptr  ? "off"
                          : settings_.tls->required() ? "require"
                                                      : "on";
  guest.connection->send(
      encode_frame(wire::greeting, 0,
                   write_stream_lines({{"version", std::to_string(wire::version)},
                                       {"nonce", guest.nonce},
                                       {"token", settings_.tokens.empty() ? "0" : "1"},
                                       {"tls", tls}})));
}

void StreamServer::Impl::start_tls(Guest& guest) {
  if (guest.session || guest.encrypted) return guest.connection->close("TLS is asked for too late");
  if (!settings_.tls)
    return refuse(*guest.connection, "not_supported", "this server has no keys for TLS", false);
  guest.connection->start_tls(settings_.tls->context());
}

/// It greets again: of what was said before nobody knows who said it.
void StreamServer::Impl::encrypted(StreamConnection& connection) {
  const auto found = guests_.find(connection.number);
  if (found == guests_.end()) return;
  found->second.encrypted = true;
  greet(found->second);
}

void StreamServer::Impl::refuse(StreamConnection& connection, std::string_view code,
                                std::string_view message, bool retry) {
  ++counters_.refused;
  connection.send(encode_frame(wire::refuse, 0,
                               write_stream_lines({{"code", std::string(code)},
                                                   {"retry", retry ? "1" : "0"},
                                                   {"message", std::string(message)}})));
  connection.close_when_sent();
}

bool StreamServer::Impl::frame(StreamConnection& connection, const wire::Header& header,
                               std::vector<std::byte>& body) {
  const auto found = guests_.find(connection.number);
  if (found == guests_.end()) return false;
  Guest& guest = found->second;
  counters_.bytes += body.size();
  if (header.type == wire::hello) {
    if (guest.session) {
      connection.close("a second hello");
      return false;
    }
    hello(guest, body);
    return false;  // reads on when the session is open
  }
  if (header.type == wire::start_tls) {
    start_tls(guest);
    return false;  // reads on after the handshake
  }
  const SessionPtr session = guest.session;
  if (!session || session->connection.lock().get() != &connection) return false;
  switch (header.type) {
    case wire::text:
    case wire::text_end:
      take_dmesg(session, header, body);
      return true;
    case wire::data:
    case wire::zero:
      return take_chunk(session, connection, header, body);
    case wire::end:
      if (body.size() != wire::digest_size) {
        connection.close("an end without a digest");
        return false;
      }
      finish(session, header.offset, std::move(body));
      return false;
    case wire::abort:
      end_early(session, Reason::sender, "the sender could not read its image to the end");
      say_done(session);
      return false;
    case wire::ping:
      connection.send(encode_frame(wire::ping, 0, ""));
      return true;
    default:
      connection.close(fmt::format("a frame of type {}", header.type));
      return false;
  }
}

void StreamServer::Impl::hello(Guest& guest, const std::vector<std::byte>& body) {
  StreamConnection& connection = *guest.connection;
  StreamHello hello;
  if (const std::string wrong = parse_stream_hello(body, hello); !wrong.empty())
    return refuse(connection, "invalid", wrong, false);
  if (settings_.tls && settings_.tls->required() && !guest.encrypted)
    return refuse(connection, "permission", "this server takes dumps over TLS alone", false);
  const bool trusted =
      settings_.tokens.empty() ||
      std::any_of(settings_.tokens.begin(), settings_.tokens.end(), [&](const std::string& token) {
        return same_secret(stream_proof(token, guest.nonce, hello.session, hello.host),
                           hello.proof);
      });
  if (!trusted) {
    log_warning(fmt::format("dump stream from {}: its token is wrong", connection.peer().text()));
    return refuse(connection, "permission", "the token is wrong or missing", false);
  }
  const SessionPtr session = find_or_make(hello, connection.peer());
  if (!session) return refuse(connection, "limit", "the server has too many dumps under way", true);
  if (const auto old = session->connection.lock()) old->close("the sender came back");
  guest.session = session;
  session->connection = guest.connection;
  // What the old connection left here comes again, from where the worker stands by then.
  session->waiting.clear();
  session->waiting_bytes = 0;
  session->paused = false;
  session->away_since = {};
  connection.set_chunk(session->opened ? session->chunk : hello.chunk);
  open(session, hello);
}

StreamServer::Impl::SessionPtr StreamServer::Impl::find_or_make(const StreamHello& hello,
                                                                const Address& peer) {
  if (const auto found = sessions_.find(hello.session); found != sessions_.end())
    return found->second;
  if (!host_.session_begins(peer, Clock::now())) return nullptr;
  const auto session = std::make_shared<Session>();
  session->name = hello.session;
  session->counted = true;
  session->dump = std::make_shared<StreamDump>(host_, peer);
  sessions_[hello.session] = session;
  return session;
}

void StreamServer::Impl::closed(StreamConnection& connection, const std::string& why) {
  const auto found = guests_.find(connection.number);
  if (found == guests_.end()) return;
  const SessionPtr session = found->second.session;
  const auto kept = found->second.connection;  // until this returns
  guests_.erase(found);
  if (!session || session->connection.lock() != kept) return;
  session->connection.reset();
  session->away_since = Clock::now();
  session->paused = false;
  if (session->over || stopping_) return;
  ++counters_.broken;
  log_info(fmt::format("dump stream {} from {}: the connection ended ({}); it may come back",
                       session->name, connection.peer().text(), why));
}

void StreamServer::Impl::adopt(const Record& record, TimePoint now) {
  const auto session = std::make_shared<Session>();
  session->name = record.session;
  session->away_since = now;
  const auto address = Address::parse(record.address);
  session->counted = host_.session_begins(address ? address.value() : Address(), now);
  session->dump = std::make_shared<StreamDump>(host_, address ? address.value() : Address());
  sessions_[record.session] = session;
  host_.workers().post(session->strand, [me = shared_from_this(), session, record] {
    if (auto opened = session->dump->reopen(record); !opened) {
      log_error(opened.error().message);
      Record lost = record;
      lost.state = State::incomplete;
      lost.reason = Reason::shutdown;
      lost.detail = opened.error().message;
      lost.finished = wall_time();
      if (auto saved = me->host_.store().save(lost); !saved) log_error(saved.error().message);
      me->host_.on_network([me, session] { me->forget(session); });
    }
  });
}

void StreamServer::Impl::tick(TimePoint now) {
  std::vector<std::shared_ptr<StreamConnection>> late;
  for (const auto& [number, guest] : guests_) {
    const Duration silence = now - guest.connection->heard;
    if (silence >= (guest.session ? quiet : settings_.handshake)) late.push_back(guest.connection);
  }
  for (const auto& connection : late)
    connection->close("silent for too long");
  const auto all = sessions_;
  for (const auto& [name, session] : all) {
    if (session->over) continue;
    if (session->connection.expired() && now - session->away_since >= settings_.idle)
      end_early(session, Reason::timeout, "the sender went away and did not come back");
    else if (!session->busy && session->opened)
      start_job(session);  // syncs what a sender that pauses waits for
  }
}

void StreamServer::Impl::shut_down() {
  stopping_ = true;
  listeners_.clear();
  const auto sessions = sessions_;
  for (const auto& [name, session] : sessions)
    if (!session->over)
      end_early(session, Reason::shutdown,
                "the server ended; the dump goes on if its sender comes back");
  const auto guests = guests_;
  for (const auto& [number, guest] : guests)
    guest.connection->close("the server is stopping");
  guests_.clear();
}

StreamServer::StreamServer(asio::io_context& io, Host& host, Settings settings)
    : impl_(std::make_shared<Impl>(io, host, std::move(settings))) {}
StreamServer::~StreamServer() = default;
void StreamServer::add(UniqueFd listening) {
  impl_->add(std::move(listening));
}
void StreamServer::adopt(const Record& record, TimePoint now) {
  impl_->adopt(record, now);
}
void StreamServer::tick(TimePoint now) {
  impl_->tick(now);
}
void StreamServer::shut_down() {
  impl_->shut_down();
}
std::size_t StreamServer::connections() const noexcept {
  return impl_->guests_.size();
}
const StreamServer::Counters& StreamServer::counters() const noexcept {
  return impl_->counters_;
}

}  // namespace blockloom::dump
