#include "server/dump/netdump.hpp"

#include <array>
#include <set>

#include <fmt/format.h>

#include "proto/dump/crc32c.hpp"
#include "proto/dump/netdump.hpp"
#include "proto/dump/range_set.hpp"
#include "server/base/log.hpp"
#include "server/dump/netdump_dump.hpp"

namespace blockloom::dump {
namespace {

/// What a session may have waiting for the disk. A client has 64 packets in flight.
constexpr std::size_t waiting_bytes_max = 4u << 20;
constexpr std::size_t waiting_items_max = 1024;
/// The first packets after a herald bear these numbers at most.
constexpr std::uint32_t first_window = 1 + netdump_window;

}  // namespace

NetdumpCounters& NetdumpCounters::operator+=(const NetdumpCounters& other) noexcept {
  datagrams += other.datagrams;
  refused += other.refused;
  malformed += other.malformed;
  strangers += other.strangers;
  duplicates += other.duplicates;
  acks += other.acks;
  dropped += other.dropped;
  return *this;
}

/// One client's dump, on the network's thread; `dump` is the strand's.
class NetdumpServer::Session : public std::enable_shared_from_this<Session> {
 public:
  Session(NetdumpServer& server, const Address& client, std::shared_ptr<NetdumpDump> dump)
      : server_(server),
        client_(client),
        strand_(std::make_shared<Workers::Strand>()),
        dump_(std::move(dump)) {}

  enum class Phase : std::uint8_t {
    fresh,  ///< a herald, no data yet
    receiving,
    finishing,  ///< FINISHED waits for the disk
    closed,     ///< over; acknowledges what it has had
  };

  bool is_another_dump(const NetdumpMessage& message);
  void packet(const UdpPeer& peer, const NetdumpMessage& message, TimePoint now);
  void start_job();
  void end_early(Reason reason, std::string detail);

  NetdumpServer& server_;
  const Address client_;
  const std::shared_ptr<Workers::Strand> strand_;
  const std::shared_ptr<NetdumpDump> dump_;

  Phase phase_ = Phase::fresh;
  bool counted_ = true;          // among the open sessions
  RangeSet seen_;                // acknowledged
  std::set<std::uint32_t> out_;  // handed to the worker, or waiting for it
  TimePoint last_packet_{};
  // A herald in the middle is a copy that the network held back, or a machine that crashed again:
  // its next packet tells.
  bool herald_open_ = false;
  bool herald_after_silence_ = false;
  UdpPeer herald_peer_;
  std::string herald_path_;
  std::array<std::uint32_t, first_window + 1> first_crcs_{};  // of the first packets; 0: not seen

  NetdumpBatch waiting_;
  bool busy_ = false;
  std::uint64_t duplicates_ = 0;

  // FINISHED, to acknowledge it in time.
  UdpPeer finish_peer_;
  std::uint32_t finish_seqno_ = 0;
  TimePoint finish_at_{};
  bool finish_told_ = false;
};

NetdumpServer::NetdumpServer(Host& host, Timing timing, Ack ack, Flush flush)
    : host_(host), timing_(timing), ack_(std::move(ack)), flush_(std::move(flush)) {}

NetdumpServer::~NetdumpServer() = default;

void NetdumpServer::datagram(const UdpPeer& peer, ByteView bytes, TimePoint now) {
  ++counters_.datagrams;
  if (!host_.allowed(peer.from)) {
    ++counters_.refused;
    return;
  }
  NetdumpMessage message;
  if (parse_netdump(bytes, message) != NetdumpError::none) {
    ++counters_.malformed;
    return;
  }
  if (message.type == NetdumpType::herald) return herald(peer, message.seqno, message.payload, now);
  const auto found = sessions_.find(peer.from);
  if (found == sessions_.end()) {
    ++counters_.strangers;
    return;
  }
  const SessionPtr session = found->second;
  if (session->herald_open_ && session->is_another_dump(message)) {
    begin(session->herald_peer_, 1, session->herald_path_, now);
    const auto fresh = sessions_.find(peer.from);
    if (fresh != sessions_.end() && fresh->second != session)
      fresh->second->packet(peer, message, now);
    return;
  }
  session->packet(peer, message, now);
}

void NetdumpServer::herald(const UdpPeer& peer, std::uint32_t seqno, ByteView payload,
                           TimePoint now) {
  std::string path;
  if (!parse_herald_path(payload, path)) {
    ++counters_.malformed;
    return;
  }
  const auto found = sessions_.find(peer.from);
  if (found == sessions_.end()) return begin(peer, seqno, std::move(path), now);
  Session& session = *found->second;
  if (session.phase_ == Session::Phase::fresh) {
    session.last_packet_ = now;
    return ack_(peer, seqno);  // sent again: our ack was lost
  }
  session.herald_open_ = true;
  session.herald_after_silence_ = now - session.last_packet_ >= timing_.settle;
  session.herald_peer_ = peer;
  session.herald_path_ = std::move(path);
  ack_(peer, seqno);
  ++counters_.acks;
}

void NetdumpServer::begin(const UdpPeer& peer, std::uint32_t seqno, std::string path,
                          TimePoint now) {
  const std::string host = host_.host_name(peer.from);
  if (!host_.session_begins(peer.from, now)) {
    ++counters_.refused;
    return;
  }
  if (const auto found = sessions_.find(peer.from); found != sessions_.end()) {
    const SessionPtr old = found->second;
    if (old->phase_ != Session::Phase::closed)
      old->end_early(Reason::new_herald, "the same machine began another dump");
    retire(old);
  }
  log_info(fmt::format("netdump from {} begins, kept as '{}'", peer.from.text(), host));
  const auto session = std::make_shared<Session>(
      *this, peer.from, std::make_shared<NetdumpDump>(host_, peer.from, std::move(path)));
  session->last_packet_ = now;
  session->seen_.insert(seqno, std::uint64_t{seqno} + 1);
  sessions_[peer.from] = session;
  ack_(peer, seqno);
  ++counters_.acks;
}

void NetdumpServer::adopt(const Record& record, TimePoint now) {
  auto address = Address::parse(record.address);
  if (!address) return;
  const auto session = std::make_shared<Session>(
      *this, *address, std::make_shared<NetdumpDump>(host_, *address, record));
  session->phase_ = Session::Phase::receiving;
  session->last_packet_ = now;
  session->counted_ = host_.session_begins(*address, now);
  if (const auto found = sessions_.find(*address); found != sessions_.end()) {
    found->second->end_early(Reason::new_herald, "a later dump of the same machine is there");
    retire(found->second);
  }
  sessions_[*address] = session;
}

void NetdumpServer::retire(const SessionPtr& session) {
  if (std::exchange(session->counted_, false)) host_.session_ended();
  const auto found = sessions_.find(session->client_);
  if (found != sessions_.end() && found->second == session) sessions_.erase(found);
}

namespace {

std::uint32_t crc_of(const NetdumpMessage& message) {
  std::array<std::byte, 8> offset;
  put_be64(offset.data(), message.offset);
  const std::uint32_t crc = crc32c(0, offset.data(), offset.size());
  return crc32c(crc, message.payload.data(), message.payload.size()) | 1;
}

}  // namespace

/// After a herald: the numbers of a new dump begin again, those of the old one go on. Where they
/// could be either's, a silence before the herald, or other bytes than before, tell.
bool NetdumpServer::Session::is_another_dump(const NetdumpMessage& message) {
  if (message.seqno > first_window) {
    herald_open_ = false;
    return false;
  }
  if (herald_after_silence_) return true;
  const std::uint32_t before = first_crcs_[message.seqno];
  return before != 0 && before != crc_of(message);
}

void NetdumpServer::Session::packet(const UdpPeer& peer, const NetdumpMessage& message,
                                    TimePoint now) {
  if (seen_.contains(message.seqno)) {
    ++duplicates_;
    ++server_.counters_.duplicates;
    ++server_.counters_.acks;
    if (phase_ != Phase::closed) last_packet_ = now;
    return server_.ack_(peer, message.seqno);
  }
  if (phase_ == Phase::closed) {
    ++server_.counters_.strangers;
    return;
  }
  last_packet_ = now;
  if (phase_ == Phase::fresh) phase_ = Phase::receiving;
  if (out_.count(message.seqno) != 0) {
    ++duplicates_;  // it will be acknowledged when it is written
    return;
  }
  if (waiting_.items.size() >= waiting_items_max ||
      waiting_.data.size() + message.payload.size() > waiting_bytes_max) {
    ++server_.counters_.dropped;  // the client sends it again
    return;
  }
  out_.insert(message.seqno);
  if (message.seqno <= first_window) first_crcs_[message.seqno] = crc_of(message);
  waiting_.items.push_back({message.type, message.seqno, message.offset, waiting_.data.size(),
                            message.payload.size(), peer});
  waiting_.data.insert(waiting_.data.end(), message.payload.begin(), message.payload.end());
  if (message.type == NetdumpType::finished) {
    phase_ = Phase::finishing;
    finish_peer_ = peer;
    finish_seqno_ = message.seqno;
    finish_at_ = now;
  }
  start_job();
}

void NetdumpServer::Session::start_job() {
  if (busy_ || waiting_.items.empty()) return;
  busy_ = true;
  const auto batch = std::make_shared<NetdumpBatch>(std::move(waiting_));
  waiting_ = {};
  const std::uint64_t duplicates = std::exchange(duplicates_, 0);
  const auto self = shared_from_this();
  server_.host_.workers().post(strand_, [self, batch, duplicates] {
    const auto outcome =
        std::make_shared<NetdumpDump::Outcome>(self->dump_->apply(*batch, duplicates));
    self->server_.host_.on_network([self, batch, outcome] {
      self->busy_ = false;
      for (const NetdumpBatch::Item& item : batch->items)
        self->out_.erase(item.seqno);
      for (const std::size_t index : outcome->done) {
        const NetdumpBatch::Item& item = batch->items[index];
        self->seen_.insert(item.seqno, std::uint64_t{item.seqno} + 1);
        if (item.type == NetdumpType::finished && self->finish_told_) continue;
        ++self->server_.counters_.acks;
        self->server_.ack_(item.peer, item.seqno);
      }
      self->server_.flush_();
      if (outcome->over || outcome->failed) {
        self->phase_ = Phase::closed;
        self->waiting_ = {};
        self->out_.clear();
        if (std::exchange(self->counted_, false)) self->server_.host_.session_ended();
        // One that failed answers nothing: the client gives up, and may begin again.
        if (outcome->failed && !outcome->over) self->server_.retire(self);
        return;
      }
      self->start_job();
    });
  });
}

void NetdumpServer::Session::end_early(Reason reason, std::string detail) {
  phase_ = Phase::closed;
  waiting_ = {};
  const auto dump = dump_;
  server_.host_.workers().post(
      strand_, [dump, reason, detail = std::move(detail)] { dump->end_early(reason, detail); });
}

void NetdumpServer::tick(TimePoint now) {
  for (auto it = sessions_.begin(); it != sessions_.end();) {
    const SessionPtr session = (it++)->second;  // retire() takes it out of the map
    switch (session->phase_) {
      case Session::Phase::closed:
        if (now - session->last_packet_ >= timing_.linger) retire(session);
        break;
      case Session::Phase::finishing:
        // The client waits some 12 s and would call its dump failed. It is all here, and will be
        // durable.
        if (!session->finish_told_ && now - session->finish_at_ >= timing_.finish) {
          session->finish_told_ = true;
          ++counters_.acks;
          ack_(session->finish_peer_, session->finish_seqno_);
          log_warning(
              fmt::format("netdump from {}: its end is acknowledged before it is durable: "
                          "the store is slow",
                          session->client_.text()));
        }
        break;
      case Session::Phase::fresh:
      case Session::Phase::receiving:
        if (now - session->last_packet_ < timing_.idle || session->busy_) break;
        session->end_early(Reason::timeout, "the sender fell silent");
        retire(session);
        break;
    }
  }
}

void NetdumpServer::shut_down() {
  const auto all = std::move(sessions_);
  sessions_.clear();
  for (const auto& [client, session] : all) {
    if (session->phase_ != Session::Phase::closed && session->phase_ != Session::Phase::finishing)
      session->end_early(Reason::shutdown, "the server ended; the dump goes on if its sender does");
    if (std::exchange(session->counted_, false)) host_.session_ended();
  }
}

}  // namespace blockloom::dump
