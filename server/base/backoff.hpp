#pragma once

#include <algorithm>
#include <cstdint>

#include "server/base/clock.hpp"

namespace blockloom {

/// Pauses between attempts: each twice the one before up to a cap, and drawn from the upper half of
/// that, so that many who lost one peer together do not come back together.
class Backoff {
 public:
  Backoff(Duration first, Duration cap, std::uint64_t seed) noexcept
      : first_(first), cap_(cap), pause_(first), random_(seed | 1) {}

  Duration next() noexcept {
    const Duration whole = pause_;
    pause_ = std::min(cap_, pause_ * 2);
    // xorshift64: no quality needed, only difference.
    random_ ^= random_ << 13;
    random_ ^= random_ >> 7;
    random_ ^= random_ << 17;
    const auto half = static_cast<std::uint64_t>(whole.count() / 2);
    return whole / 2 + Duration(static_cast<Duration::rep>(half == 0 ? 0 : random_ % half));
  }

  void reset() noexcept { pause_ = first_; }

 private:
  const Duration first_, cap_;
  Duration pause_;
  std::uint64_t random_;
};

}  // namespace blockloom
