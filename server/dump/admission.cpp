#include "server/dump/admission.hpp"

#include <algorithm>
#include <chrono>

#include <fmt/format.h>

#include "server/base/log.hpp"

namespace blockloom::dump {

bool Admission::begins(const Address& address, TimePoint now) {
  if (sessions_ >= most_) {
    log_warning(
        fmt::format("dump from {} refused: there are {} sessions already", address.text(), most_));
    return false;
  }
  if (per_minute_ != 0) {
    const double full = static_cast<double>(per_minute_);
    // Addresses can be forged: the table is bounded, and who has been silent goes first.
    if (buckets_.size() >= addresses_max && buckets_.count(address) == 0)
      std::erase_if(buckets_,
                    [&](const auto& b) { return now - b.second.at > std::chrono::minutes(1); });
    if (buckets_.size() >= addresses_max && buckets_.count(address) == 0) return false;
    const auto [it, fresh] = buckets_.try_emplace(address, Bucket{full, now});
    Bucket& bucket = it->second;
    const double minutes = std::chrono::duration<double, std::ratio<60>>(now - bucket.at).count();
    bucket.left = std::min(full, bucket.left + minutes * full);
    bucket.at = now;
    if (bucket.left < 1) {
      log_warning(fmt::format("dump from {} refused: it begins more than {} times a minute",
                              address.text(), per_minute_));
      return false;
    }
    bucket.left -= 1;
  }
  ++sessions_;
  return true;
}

}  // namespace blockloom::dump
