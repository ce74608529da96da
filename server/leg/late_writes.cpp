#include "server/leg/late_writes.hpp"

namespace blockloom {

LateWrites& LateWrites::get() {
  static LateWrites late;
  return late;
}

void LateWrites::add(const std::string& storage) noexcept {
  const std::lock_guard lock(mutex_);
  ++counts_[storage];
}

void LateWrites::clear(const std::string& storage) noexcept {
  const std::lock_guard lock(mutex_);
  counts_.erase(storage);
}

std::uint64_t LateWrites::count(const std::string& storage) const noexcept {
  const std::lock_guard lock(mutex_);
  const auto found = counts_.find(storage);
  return found == counts_.end() ? 0 : found->second;
}

}  // namespace blockloom
