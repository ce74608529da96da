#include "server/base/gate.hpp"

#include <cassert>

namespace blockloom {

IoGate::~IoGate() {
  assert(inside() == 0);
}

bool IoGate::wait_idle(TimePoint deadline) noexcept {
  std::unique_lock lock(mutex_);
  return idle_.wait_until(lock, deadline, [this] { return inside() == 0; });
}

std::uint64_t IoGate::inside() const noexcept {
  // Once closed_ is visible, a shard that reads zero stays zero but for newcomers that turn back
  // at once, so the shards need not be read at one instant.
  std::int64_t sum = 0;
  for (const Shard& shard : shards_)
    sum += shard.inside.load(std::memory_order_seq_cst);
  return sum > 0 ? static_cast<std::uint64_t>(sum) & 0xffffffff : 0;
}

std::uint64_t IoGate::marked() const noexcept {
  std::int64_t sum = 0;
  for (const Shard& shard : shards_)
    sum += shard.inside.load(std::memory_order_seq_cst);
  return sum > 0 ? static_cast<std::uint64_t>(sum) >> 32 : 0;
}

void IoGate::wake() noexcept {
  // Taking the mutex closes the window between the waiter's look at the shards and its sleep.
  std::lock_guard lock(mutex_);
  idle_.notify_all();
}

}  // namespace blockloom
