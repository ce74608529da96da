#include "server/dump/stream_server.hpp"

#include <algorithm>
#include <cerrno>
#include <list>
#include <map>

#include <asio/io_context.hpp>
#include <asio/posix/stream_descriptor.hpp>
#include <fmt/format.h>
#include <netinet/in.h>
#include <sys/random.h>
#include <unistd.h>

#include "proto/dump/stream.hpp"
#include "server/base/log.hpp"
#include "server/dump/stream_connection.hpp"
#include "server/dump/stream_dump.hpp"

namespace blockloom::dump {
namespace {

/// What a session may have waiting for the disk, in bytes; a chunk is always taken.
constexpr std::size_t waiting_max = 4u << 20;
constexpr std::uint64_t window_default = 32u << 20;
/// Never more than this is left unsynced, however large the sender's window is.
constexpr std::uint64_t unsynced_max = 64u << 20;
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

std::string_view code_of(const Error& error) {
  return error.code == Errc::no_space ? "no_space" : to_string(error.code);
}

}  // namespace

class StreamServer::Impl final : public StreamConnection::User,
                                 public std::enable_shared_from_this<Impl> {
 public:
  Impl(asio::io_context& io, Host& host, Settings settings)
      : io_(io), host_(host), settings_(std::move(settings)) {}

  /// A dump, with or without a connection at the moment.
  struct Session {
    std::string name;
    std::shared_ptr<Workers::Strand> strand = std::make_shared<Workers::Strand>();
    std::shared_ptr<StreamDump> dump;  // the strand's
    std::weak_ptr<StreamConnection> connection;
    TimePoint away_since{};
    bool counted = false;
    bool opened = false;
    bool over = false;
    std::uint32_t chunk = wire::chunk_default;
    std::uint64_t window = window_default;

    // Of the connection that it has.
    std::uint64_t next = 0;  // the stream's offset that comes next
    bool last_seen = false;  // a short chunk: the end follows
    std::string dmesg;
    std::vector<StreamChunk> waiting;
    std::size_t waiting_bytes = 0;
    bool busy = false, paused = false;
    std::uint64_t written = 0, synced = 0, acked = 0;  // as the worker last said
  };
  using SessionPtr = std::shared_ptr<Session>;

  struct Guest {
    std::shared_ptr<StreamConnection> connection;
    std::string nonce;
    SessionPtr session;
  };

  void add(Fd listening);
  void accept(asio::posix::stream_descriptor& listener);
  void admit(int fd, Address peer);
  void adopt(const Record& record, TimePoint now);
  void tick(TimePoint now);
  void shut_down();

  bool frame(StreamConnection& connection, const wire::Header& header,
             std::vector<std::byte>& body) override;
  void closed(StreamConnection& connection, const std::string& why) override;

  void refuse(StreamConnection& connection, std::string_view code, std::string_view message,
              bool retry);
  void hello(Guest& guest, const std::vector<std::byte>& body);
  SessionPtr find_or_make(const StreamHello& hello, const Address& peer);
  void open(const SessionPtr& session, const StreamHello& hello);
  void welcome(const SessionPtr& session, const Result<void>& opened, const StreamLines& lines);
  bool take_chunk(const SessionPtr& session, StreamConnection& connection,
                  const wire::Header& header, std::vector<std::byte>& body);
  void start_job(const SessionPtr& session);
  void job_done(const SessionPtr& session, const Result<void>& done);
  void take_dmesg(const SessionPtr& session, const wire::Header& header,
                  const std::vector<std::byte>& body);
  void finish(const SessionPtr& session, std::uint64_t length, std::vector<std::byte> digest);
  void say_done(const SessionPtr& session);
  void failed(const SessionPtr& session, const Error& error);
  void end_early(const SessionPtr& session, Reason reason, std::string detail);
  void forget(const SessionPtr& session);

  asio::io_context& io_;
  Host& host_;
  const Settings settings_;
  Counters counters_;
  bool stopping_ = false;
  std::list<asio::posix::stream_descriptor> listeners_;
  std::uint64_t next_number_ = 1;
  std::map<std::uint64_t, Guest> guests_;
  std::map<std::string, SessionPtr> sessions_;
};

Result<Fd> StreamServer::listen(BindPoint& where) {
  const std::string name = "tcp:" + where.text();
  const bool v4 = where.address.v4();
  Fd fd(::socket(v4 ? AF_INET : AF_INET6, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0));
  if (!fd) return system_error(name, errno);
  const int on = 1;
  ::setsockopt(fd.get(), SOL_SOCKET, SO_REUSEADDR, &on, sizeof on);
  if (!v4) ::setsockopt(fd.get(), IPPROTO_IPV6, IPV6_V6ONLY, &on, sizeof on);
  sockaddr_storage address;
  socklen_t size = where.address.to_socket(where.port, address);
  if (::bind(fd.get(), reinterpret_cast<const sockaddr*>(&address), size) != 0 ||
      ::listen(fd.get(), 128) != 0)
    return system_error(name, errno);
  size = sizeof address;
  if (::getsockname(fd.get(), reinterpret_cast<sockaddr*>(&address), &size) == 0)
    where.port = ntohs(v4 ? reinterpret_cast<const sockaddr_in&>(address).sin_port
                          : reinterpret_cast<const sockaddr_in6&>(address).sin6_port);
  return fd;
}

void StreamServer::Impl::add(Fd listening) {
  accept(listeners_.emplace_back(io_, listening.release()));
}

void StreamServer::Impl::accept(asio::posix::stream_descriptor& listener) {
  listener.async_wait(asio::posix::stream_descriptor::wait_read,
                      [me = shared_from_this(), &listener](const asio::error_code& error) {
                        if (error || me->stopping_) return;
                        for (int i = 0; i < 16; ++i) {
                          sockaddr_storage from{};
                          socklen_t size = sizeof from;
                          const int fd = ::accept4(listener.native_handle(),
                                                   reinterpret_cast<sockaddr*>(&from), &size,
                                                   SOCK_CLOEXEC | SOCK_NONBLOCK);
                          if (fd < 0) break;
                          me->admit(fd, Address::of(reinterpret_cast<const sockaddr*>(&from)));
                        }
                        me->accept(listener);
                      });
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
  guest.nonce = nonce();
  connection->start();
  connection->send(
      encode_frame(wire::greeting, 0,
                   write_stream_lines({{"version", std::to_string(wire::version)},
                                       {"nonce", guest.nonce},
                                       {"token", settings_.tokens.empty() ? "0" : "1"}})));
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

void StreamServer::Impl::open(const SessionPtr& session, const StreamHello& hello) {
  const auto result = std::make_shared<Result<void>>();
  host_.workers().post(session->strand, [me = shared_from_this(), session, hello, result] {
    StreamDump& dump = *session->dump;
    const auto earlier = me->host_.store().find_session(hello.session);
    // One that is over is not begun again: the sender only missed the answer.
    if (dump.received() == 0 && !dump.over() && dump.record().id.host.empty() && earlier) {
      if (earlier->state == State::complete) {
        me->host_.on_network([me, session, record = *earlier] {
          if (const auto connection = session->connection.lock()) {
            connection->send(encode_frame(
                wire::done, 0,
                write_stream_lines({{"state", "complete"}, {"id", record.id.text()}})));
            connection->close_when_sent();
          }
          me->forget(session);
        });
        return;
      }
    }
    *result = dump.open(hello);
    if (*result) *result = dump.sync();
    const std::uint64_t durable = dump.durable();
    const std::uint32_t chunk = dump.chunk();
    const StreamLines lines{{"id", dump.record().id.text()},
                            {"offset", std::to_string(durable)},
                            {"chunk", std::to_string(chunk)},
                            {"text", dump.has_dmesg() ? "1" : "0"}};
    me->host_.on_network([me, session, result, durable, chunk, lines, window = hello.window] {
      session->chunk = chunk;
      session->window = window != 0 ? window : window_default;
      session->next = session->written = session->synced = session->acked = durable;
      session->last_seen = false;
      session->dmesg.clear();
      me->welcome(session, *result, lines);
    });
  });
}

void StreamServer::Impl::welcome(const SessionPtr& session, const Result<void>& opened,
                                 const StreamLines& lines) {
  const auto connection = session->connection.lock();
  if (!opened) return failed(session, opened.error());
  session->opened = true;
  if (!connection || session->over) return;
  connection->set_chunk(session->chunk);
  connection->send(encode_frame(wire::welcome, session->next, write_stream_lines(lines)));
  connection->resume();
}

void StreamServer::Impl::take_dmesg(const SessionPtr& session, const wire::Header& header,
                                    const std::vector<std::byte>& body) {
  std::string& text = session->dmesg;
  if (header.type == wire::text) {
    if (header.offset != text.size() || text.size() + body.size() > wire::dmesg_max) return;
    text += as_text(body);
    return;
  }
  const auto whole = std::make_shared<std::string>(std::move(text));
  text.clear();
  if (whole->size() != header.offset) return;
  host_.workers().post(session->strand, [session, whole] {
    if (auto put = session->dump->put_dmesg(*whole); !put) log_warning(put.error().message);
  });
}

bool StreamServer::Impl::take_chunk(const SessionPtr& session, StreamConnection& connection,
                                    const wire::Header& header, std::vector<std::byte>& body) {
  StreamChunk chunk;
  if (header.type == wire::zero) {
    chunk.length = body.size() == 8 ? be64(body.data()) : 0;
  } else {
    chunk.length = body.size();
    chunk.crc = header.body_crc;
    chunk.bytes = std::move(body);
  }
  const bool whole = chunk.length % session->chunk == 0;
  const bool fits = header.type == wire::zero || chunk.length <= session->chunk;
  if (chunk.length == 0 || header.offset != session->next || session->last_seen || !fits ||
      chunk.length > (std::uint64_t{1} << 34)) {
    connection.close(fmt::format("a chunk of {} bytes at {}, expected one at {}", chunk.length,
                                 header.offset, session->next));
    return false;
  }
  session->last_seen = !whole;
  session->next += chunk.length;
  session->waiting_bytes += chunk.bytes.size();
  session->waiting.push_back(std::move(chunk));
  start_job(session);
  session->paused = session->waiting_bytes + session->chunk > waiting_max;
  return !session->paused;
}

void StreamServer::Impl::start_job(const SessionPtr& session) {
  if (session->busy || session->over) return;
  const std::uint64_t unsynced = session->written - session->synced;
  if (session->waiting.empty() && unsynced == 0) return;
  session->busy = true;
  const auto chunks = std::make_shared<std::vector<StreamChunk>>(std::move(session->waiting));
  session->waiting.clear();
  session->waiting_bytes = 0;
  // Synced before the sender's window is full, so that it need not stop; and when it pauses.
  const std::uint64_t limit = std::min(session->window / 2, unsynced_max);
  const auto result = std::make_shared<Result<void>>();
  host_.workers().post(session->strand, [me = shared_from_this(), session, chunks, limit, result] {
    StreamDump& dump = *session->dump;
    if (!chunks->empty()) *result = dump.append(*chunks);
    if (*result && (chunks->empty() || dump.received() - dump.durable() >= limit))
      *result = dump.sync();
    chunks->clear();
    me->host_.on_network(
        [me, session, result, received = dump.received(), durable = dump.durable()] {
          session->written = received;
          session->synced = durable;
          me->job_done(session, *result);
        });
  });
}

void StreamServer::Impl::job_done(const SessionPtr& session, const Result<void>& done) {
  session->busy = false;
  if (session->over) return;
  if (!done) return failed(session, done.error());
  const auto connection = session->connection.lock();
  if (connection && session->synced > session->acked) {
    session->acked = session->synced;
    connection->send(encode_frame(wire::ack, session->acked, ""));
  }
  if (!session->waiting.empty()) start_job(session);
  if (connection && session->paused && session->waiting_bytes + session->chunk <= waiting_max) {
    session->paused = false;
    connection->resume();
  }
}

void StreamServer::Impl::finish(const SessionPtr& session, std::uint64_t length,
                                std::vector<std::byte> digest) {
  // Behind what waits: the strand keeps the order.
  start_job(session);
  const auto chunks = std::make_shared<std::vector<StreamChunk>>(std::move(session->waiting));
  session->waiting.clear();
  session->over = true;
  host_.workers().post(session->strand, [me = shared_from_this(), session, chunks, length,
                                         digest = std::move(digest)] {
    StreamDump& dump = *session->dump;
    Result<void> done = chunks->empty() ? Result<void>() : dump.append(*chunks);
    if (done) done = dump.finish(length, digest);
    me->host_.on_network([me, session, done] {
      if (!done) {
        session->over = false;
        return me->failed(session, done.error());
      }
      me->say_done(session);
      me->forget(session);
    });
  });
}

/// Behind what the strand still has to do: the dump's record says how it ended.
void StreamServer::Impl::say_done(const SessionPtr& session) {
  host_.workers().post(session->strand, [me = shared_from_this(), session] {
    const Record record = session->dump->record();
    me->host_.on_network([session, record] {
      const auto connection = session->connection.lock();
      if (!connection) return;
      connection->send(
          encode_frame(wire::done, 0,
                       write_stream_lines({{"state", std::string(to_string(record.state))},
                                           {"reason", std::string(to_string(record.reason))},
                                           {"message", record.detail},
                                           {"id", record.id.text()}})));
      connection->close_when_sent();
    });
  });
}

void StreamServer::Impl::failed(const SessionPtr& session, const Error& error) {
  log_error(fmt::format("dump stream {}: {}", session->name, error.message));
  const auto connection = session->connection.lock();
  const bool full = error.code == Errc::no_space;
  const auto dump = session->dump;
  host_.workers().post(session->strand, [me = shared_from_this(), dump, full, error] {
    if (full) {
      Record record = dump->record();
      record.detail = error.message;
      me->host_.no_space(record);
    }
    dump->end_early(full ? Reason::no_space : Reason::store, error.message);
  });
  if (connection) refuse(*connection, code_of(error), error.message, false);
  session->over = true;
  forget(session);
}

void StreamServer::Impl::end_early(const SessionPtr& session, Reason reason, std::string detail) {
  session->over = true;
  const auto dump = session->dump;
  host_.workers().post(session->strand, [dump, reason, detail = std::move(detail)] {
    dump->end_early(reason, detail);
  });
  forget(session);
}

void StreamServer::Impl::forget(const SessionPtr& session) {
  if (std::exchange(session->counted, false)) host_.session_ended();
  const auto found = sessions_.find(session->name);
  if (found != sessions_.end() && found->second == session) sessions_.erase(found);
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
  asio::error_code ignored;
  for (auto& listener : listeners_)
    listener.close(ignored);
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
void StreamServer::add(Fd listening) {
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
