#pragma once

#include <array>
#include <cstdint>
#include <functional>
#include <map>
#include <mutex>
#include <string>
#include <vector>

#include "server/base/clock.hpp"
#include "server/base/timer_queue.hpp"
#include "server/leg/io.hpp"

namespace blockloom {

/// Requests that wait for a time of their own, on one thread that starts with the first of them.
/// Any thread. Empty when it is destroyed.
class DelayedIos {
 public:
  static constexpr std::size_t kinds = 3;

  /// `go_on` runs on this queue's thread when a request's time has come.
  DelayedIos(std::string thread_name, std::function<void(Io&)> go_on);
  ~DelayedIos();

  /// The kind is for count() only. False when there is no memory or no thread to wait with.
  [[nodiscard]] bool add(Io& io, Duration delay, std::size_t kind = 0) noexcept;

  /// Takes those back whose time has not come, oldest first; the caller ends them.
  std::vector<Io*> take_all();

  std::uint64_t count(std::size_t kind) const;
  std::uint64_t count() const;

 private:
  struct Entry {
    Io* io;
    TimerId timer;
    std::size_t kind;
  };

  void time_has_come(std::uint64_t number);

  const std::function<void(Io&)> go_on_;
  mutable std::mutex mutex_;  // protects what follows
  std::map<std::uint64_t, Entry> entries_;
  std::array<std::uint64_t, kinds> counts_{};
  std::uint64_t next_number_ = 0;

  TimerQueue timers_;  // last: its callbacks use the rest
};

}  // namespace blockloom
