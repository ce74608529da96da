#pragma once

#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <vector>

#include "proto/dump/bytes.hpp"
#include "server/base/clock.hpp"
#include "server/dump/address.hpp"
#include "server/dump/host.hpp"

namespace blockloom::dump {

/// Where a datagram came from, and where it was sent to: an answer goes back the same way.
struct UdpPeer {
  Address from;
  std::uint16_t port = 0;
  Address to;  ///< the local address that was addressed
  unsigned interface = 0;
};

struct NetdumpCounters {
  std::uint64_t datagrams = 0, refused = 0, malformed = 0, strangers = 0, duplicates = 0, acks = 0,
                dropped = 0;
  NetdumpCounters& operator+=(const NetdumpCounters& other) noexcept;
};

/// FreeBSD netdump over one port: sessions by the client's address, what is acknowledged and when,
/// what a herald in the middle of a dump means. Knows no sockets; all on the network's thread.
class NetdumpServer {
 public:
  struct Timing {
    Duration idle = std::chrono::seconds(600);   ///< then a silent client's dump is over
    Duration linger = std::chrono::seconds(60);  ///< a finished session still acknowledges
    Duration settle = std::chrono::seconds(3);   ///< a herald sooner after data is a late copy
    Duration finish = std::chrono::seconds(7);   ///< then FINISHED is acknowledged, synced or not
  };
  /// Queues an ack; `flush` sends what is queued, after acks that no datagram or tick brought.
  using Ack = std::function<void(const UdpPeer& peer, std::uint32_t seqno)>;
  using Flush = std::function<void()>;

  NetdumpServer(Host& host, Timing timing, Ack ack, Flush flush);
  ~NetdumpServer();

  void datagram(const UdpPeer& peer, ByteView bytes, TimePoint now);
  /// About once a second.
  void tick(TimePoint now);

  /// Dumps that an earlier server was receiving go on when their client's next packet comes.
  void adopt(const Record& record, TimePoint now);

  /// Ends every session as incomplete (shutdown), on the workers; the dumps can go on later.
  void shut_down();

  std::size_t sessions() const noexcept { return sessions_.size(); }
  const NetdumpCounters& counters() const noexcept { return counters_; }

 private:
  class Session;
  using SessionPtr = std::shared_ptr<Session>;

  void herald(const UdpPeer& peer, std::uint32_t seqno, ByteView path, TimePoint now);
  void begin(const UdpPeer& peer, std::uint32_t seqno, std::string path, TimePoint now);
  void retire(const SessionPtr& session);

  Host& host_;
  const Timing timing_;
  const Ack ack_;
  const Flush flush_;
  NetdumpCounters counters_;
  std::map<Address, SessionPtr> sessions_;
};

}  // namespace blockloom::dump
