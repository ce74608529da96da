#pragma once

#include <cstdint>

#include "server/target/mirror/types.hpp"

namespace blockloom::mirror {

/// How fast a resync goes, and how far it is. Pure: time comes with the calls.
///
/// A token bucket holds it to the rate that was set. Beside that it yields to foreground I/O:
/// while requests are served it takes a third of the time at most (after a chunk that took t it
/// pauses 2t), but never falls below the least rate.
class Pace {
 public:
  Pace(std::uint64_t rate, std::uint64_t min_rate) noexcept : rate_(rate), min_rate_(min_rate) {}

  void set_rate(std::uint64_t bytes_a_second) noexcept;
  void set_min_rate(std::uint64_t bytes_a_second) noexcept { min_rate_ = bytes_a_second; }
  std::uint64_t rate() const noexcept { return rate_; }
  void pause() noexcept { paused_ = true; }
  void unpause() noexcept { paused_ = false; }
  bool paused() const noexcept { return paused_; }

  /// A foreground request began.
  void foreground(Time now) noexcept { last_foreground_ = now; }

  /// When the next chunk may begin: now or later; `never` while paused.
  Time next_start(Time now) const noexcept;
  void chunk_started(Time now, std::uint64_t bytes) noexcept;
  void chunk_ended(Time now, Time took, std::uint64_t bytes) noexcept;

  /// Bytes a second over the last seconds; 0 when nothing was copied.
  std::uint64_t speed(Time now) const noexcept;

 private:
  std::uint64_t rate_;
  std::uint64_t min_rate_;
  bool paused_ = false;
  Time last_foreground_ = 0;
  Time allowed_from_ = 0;  ///< by the rate
  Time yield_until_ = 0;   ///< to the foreground
  Time window_began_ = 0;
  std::uint64_t window_bytes_ = 0;
  std::uint64_t speed_ = 0;
};

/// For people: how far a resync is.
struct Progress {
  bool running = false;
  bool paused = false;
  std::uint64_t bytes_left = 0;    ///< of STALE regions on legs that are up, each leg counted
  std::uint64_t bytes_done = 0;    ///< since the resync began
  std::uint64_t bytes_second = 0;  ///< speed of the last seconds
  Time left = never;               ///< estimate; never: unknown
};
Progress progress_of(const Pace& pace, std::uint64_t left, std::uint64_t done, bool running,
                     Time now) noexcept;

}  // namespace blockloom::mirror
