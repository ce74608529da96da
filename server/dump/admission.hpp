#pragma once

#include <atomic>
#include <cstddef>
#include <map>

#include "server/base/clock.hpp"
#include "server/dump/address.hpp"

namespace blockloom::dump {

/// How many sessions there may be at once, and how often one address may begin. begins() is the
/// network thread's; the rest any thread.
class Admission {
 public:
  Admission(std::size_t sessions, std::size_t begins_per_minute)
      : most_(sessions), per_minute_(begins_per_minute) {}

  /// One more session, which ended() gives back; false: not now.
  bool begins(const Address& address, TimePoint now);
  void ended() noexcept { --sessions_; }
  std::size_t sessions() const noexcept { return sessions_.load(); }

 private:
  struct Bucket {
    double left = 0;
    TimePoint at{};
  };
  static constexpr std::size_t addresses_max = 4096;

  const std::size_t most_;
  const std::size_t per_minute_;
  std::atomic<std::size_t> sessions_{0};
  std::map<Address, Bucket> buckets_;
};

}  // namespace blockloom::dump
