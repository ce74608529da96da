#pragma once

#include <cstdint>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "server/dump/stream_connection.hpp"
#include "server/dump/stream_dump.hpp"
#include "server/dump/stream_server.hpp"
#include "server/dump/tcp_listener.hpp"

namespace blockloom::dump {

/// Connections (guests) in stream_server.cpp; the sessions that outlive them in
/// stream_sessions.cpp.
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
    std::uint64_t window = 32u << 20;

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
    bool encrypted = false;
    SessionPtr session;
  };

  void add(UniqueFd listening);
  void admit(int fd, Address peer);
  void adopt(const Record& record, TimePoint now);
  void tick(TimePoint now);
  void shut_down();

  bool frame(StreamConnection& connection, const wire::Header& header,
             std::vector<std::byte>& body) override;
  void encrypted(StreamConnection& connection) override;
  std::vector<std::byte> spare() override;
  void closed(StreamConnection& connection, const std::string& why) override;
  void take_back(std::vector<StreamChunk>& chunks);

  void greet(Guest& guest);
  void start_tls(Guest& guest);
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
  std::vector<std::unique_ptr<TcpListener>> listeners_;
  std::uint64_t next_number_ = 1;
  std::map<std::uint64_t, Guest> guests_;
  std::map<std::string, SessionPtr> sessions_;
  std::vector<std::vector<std::byte>> spares_;  // bodies of chunks that are written
  std::size_t spare_bytes_ = 0;
};

}  // namespace blockloom::dump
