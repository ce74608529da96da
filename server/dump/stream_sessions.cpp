// The dumps of the stream protocol, with or without a connection: what is written, made durable,
// acknowledged.
#include <algorithm>

#include <fmt/format.h>

#include "server/base/log.hpp"
#include "server/dump/stream_impl.hpp"

namespace blockloom::dump {
namespace {

/// What a session may have waiting for the disk, in bytes; a chunk is always taken.
constexpr std::size_t waiting_max = 4u << 20;
/// Memory that is kept for the chunks to come, of all sessions.
constexpr std::size_t spares_max = 8u << 20;
constexpr std::uint64_t window_default = 32u << 20;
/// Never more than this is left unsynced, however large the sender's window is.
constexpr std::uint64_t unsynced_max = 64u << 20;

std::string_view code_of(const Error& error) {
  return error.code == Errc::no_space ? "no_space" : to_string(error.code);
}

}  // namespace

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

std::vector<std::byte> StreamServer::Impl::spare() {
  if (spares_.empty()) return {};
  std::vector<std::byte> bytes = std::move(spares_.back());
  spares_.pop_back();
  spare_bytes_ -= bytes.capacity();
  return bytes;
}

void StreamServer::Impl::take_back(std::vector<StreamChunk>& chunks) {
  for (StreamChunk& chunk : chunks) {
    if (chunk.bytes.empty() || spare_bytes_ + chunk.bytes.capacity() > spares_max) continue;
    spare_bytes_ += chunk.bytes.capacity();
    spares_.push_back(std::move(chunk.bytes));
  }
  chunks.clear();
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
    me->host_.on_network(
        [me, session, chunks, result, received = dump.received(), durable = dump.durable()] {
          me->take_back(*chunks);
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

}  // namespace blockloom::dump
