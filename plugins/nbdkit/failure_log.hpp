#pragma once

#include <atomic>
#include <cstdint>

#include "server/device/device.hpp"
#include "server/device/request.hpp"

namespace blockloom::nbd {

/// Tells the log of requests that failed, a few a second: a broken leg fails as fast as clients
/// ask, and must not fill the disk with its story. Any thread.
class FailureLog {
 public:
  static constexpr unsigned lines_per_second = 5;

  void note(const Device& device, const Request& request) noexcept;

  /// Whether a line may be written in this second; `suppressed` says how many were held back in
  /// the seconds before.
  bool admit(std::uint64_t second, std::uint64_t& suppressed) noexcept;

 private:
  std::atomic<std::uint64_t> second_{0};
  std::atomic<unsigned> lines_{0};
  std::atomic<std::uint64_t> suppressed_{0};
};

}  // namespace blockloom::nbd
