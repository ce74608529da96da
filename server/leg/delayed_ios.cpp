#include "server/leg/delayed_ios.hpp"

#include <cassert>
#include <numeric>

namespace blockloom {

DelayedIos::DelayedIos(std::string thread_name, std::function<void(Io&)> go_on)
    : go_on_(std::move(go_on)), timers_(std::move(thread_name)) {}

DelayedIos::~DelayedIos() {
  assert(entries_.empty());
}

bool DelayedIos::add(Io& io, Duration delay, std::size_t kind) noexcept {
  // The callback takes the lock too, so it cannot come before the entry is complete.
  std::lock_guard lock(mutex_);
  const std::uint64_t number = next_number_++;
  try {
    const auto entry = entries_.emplace(number, Entry{&io, 0, kind}).first;
    entry->second.timer =
        timers_.schedule(Clock::now() + delay, [this, number](Errc) { time_has_come(number); });
  } catch (...) {
    entries_.erase(number);
    return false;
  }
  ++counts_[kind];
  return true;
}

void DelayedIos::time_has_come(std::uint64_t number) {
  Io* io = nullptr;
  {
    std::lock_guard lock(mutex_);
    const auto entry = entries_.find(number);
    io = entry->second.io;
    --counts_[entry->second.kind];
    entries_.erase(entry);
  }
  go_on_(*io);
}

std::vector<Io*> DelayedIos::take_all() {
  std::vector<Io*> taken;
  std::lock_guard lock(mutex_);
  std::erase_if(entries_, [&](const auto& numbered) {
    const Entry& entry = numbered.second;
    // One that cannot be cancelled is on its way.
    if (!timers_.cancel(entry.timer)) return false;
    taken.push_back(entry.io);
    --counts_[entry.kind];
    return true;
  });
  return taken;
}

std::uint64_t DelayedIos::count(std::size_t kind) const {
  std::lock_guard lock(mutex_);
  return counts_[kind];
}

std::uint64_t DelayedIos::count() const {
  std::lock_guard lock(mutex_);
  return std::accumulate(counts_.begin(), counts_.end(), std::uint64_t{0});
}

}  // namespace blockloom
