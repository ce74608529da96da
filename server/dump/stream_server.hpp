#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "server/base/clock.hpp"
#include "server/base/error.hpp"
#include "server/dump/address.hpp"
#include "server/dump/fd.hpp"
#include "server/dump/host.hpp"
#include "server/dump/stream_tls.hpp"

namespace asio {
class io_context;
}

namespace blockloom::dump {

/// Our own stream over TCP (docs/dump-protocol.md): connections, and the dumps that outlive them.
/// All on the network's thread.
class StreamServer {
 public:
  struct Settings {
    Duration idle = std::chrono::minutes(10);       ///< a sender away for longer: its dump is over
    Duration handshake = std::chrono::seconds(20);  ///< for a hello
    std::vector<std::string> tokens;                ///< empty: none is asked for
    std::shared_ptr<StreamTls> tls;                 ///< null: none
    std::size_t connections = 256;
  };
  struct Counters {
    std::uint64_t connections = 0, refused = 0, broken = 0, bytes = 0;
  };

  StreamServer(asio::io_context& io, Host& host, Settings settings);
  ~StreamServer();
  StreamServer(const StreamServer&) = delete;
  StreamServer& operator=(const StreamServer&) = delete;

  void add(UniqueFd listening);
  /// A dump that an earlier server was receiving: it goes on if its sender comes back.
  void adopt(const Record& record, TimePoint now);
  /// About once a second.
  void tick(TimePoint now);
  /// Closes all; the dumps end as incomplete (shutdown), on the workers.
  void shut_down();

  std::size_t connections() const noexcept;
  const Counters& counters() const noexcept;

 private:
  class Impl;
  std::shared_ptr<Impl> impl_;
};

}  // namespace blockloom::dump
