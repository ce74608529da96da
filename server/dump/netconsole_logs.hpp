#pragma once

#include <cstdint>
#include <deque>
#include <map>
#include <mutex>
#include <string>
#include <string_view>

#include "proto/dump/netconsole.hpp"
#include "server/base/clock.hpp"
#include "server/dump/address.hpp"

namespace blockloom::dump {

/// What netconsole brings, by sender: put in order, the last of it kept in memory for the dump
/// that may follow, and all of it given out for the host's log. Any thread.
class NetconsoleLogs {
 public:
  struct Limits {
    std::size_t senders = 1024;
    std::size_t bytes = 256u << 10;  ///< kept of one sender
    Duration kept = std::chrono::minutes(15);
    Duration partial = std::chrono::seconds(2);  ///< then a line without its end is given out
  };

  NetconsoleLogs() : NetconsoleLogs(Limits()) {}
  explicit NetconsoleLogs(Limits limits) : limits_(limits) {}

  /// `wall`: seconds since 1970, for the lines' stamps.
  void take(const Address& from, std::string_view datagram, TimePoint now, double wall);
  void tick(TimePoint now, double wall);

  /// The lines of this sender that are not too old.
  std::string recent(const Address& from, TimePoint now) const;
  /// What has come since the last call, by sender: for logs on disk.
  std::map<Address, std::string> take_unwritten();
  std::uint64_t dropped() const;  ///< datagrams of senders for whom there was no room

 private:
  struct Line {
    TimePoint at;
    std::string text;
  };
  struct Sender {
    NetconsoleReader reader;
    std::deque<Line> lines;
    std::size_t bytes = 0;
    std::string unwritten;
    TimePoint heard{};
    bool flushed = true;
  };

  void add(Sender& sender, const std::vector<NetconsoleReader::Line>& lines, TimePoint now,
           double wall);

  const Limits limits_;
  mutable std::mutex mutex_;  // protects what follows
  std::map<Address, Sender> senders_;
  std::uint64_t dropped_ = 0;
};

class Reception;

/// Puts what came from this address lately beside a dump that begins, with the panic in it. On a
/// worker.
void join_console(const NetconsoleLogs& logs, Reception& reception, const Address& address);

}  // namespace blockloom::dump
