#include "server/target/mirror/recovery.hpp"

#include <algorithm>

namespace blockloom::mirror {
namespace {

constexpr Time window = 2 * second;
/// Foreground I/O counts as running that long after its last request.
constexpr Time foreground_lasts = 200 * millisecond;

/// What a chunk is taken to cost when the clock did not move with it: mirrors without deadlines are
/// told the time by ticks only.
constexpr std::uint64_t assumed_rate = std::uint64_t{512} << 20;

/// How long `bytes` take at a rate; 0 for "no limit".
Time time_for(std::uint64_t bytes, std::uint64_t rate) noexcept {
  if (rate == 0) return 0;
  const auto wide = static_cast<unsigned __int128>(bytes) * second / rate;
  return wide > 3600 * second ? 3600 * second : static_cast<Time>(wide);
}

}  // namespace

void Pace::set_rate(std::uint64_t bytes_a_second) noexcept {
  rate_ = bytes_a_second;
  allowed_from_ = 0;
}

Time Pace::next_start(Time now) const noexcept {
  if (paused_) return never;
  return std::max({now, allowed_from_, yield_until_});
}

void Pace::chunk_started(Time now, std::uint64_t bytes) noexcept {
  // What was not used is kept for a tenth of a second, no longer: no burst after a pause.
  const Time from = std::max(allowed_from_, now > 100 * millisecond ? now - 100 * millisecond : 0);
  allowed_from_ = from + time_for(bytes, rate_);
}

void Pace::chunk_ended(Time now, Time took, std::uint64_t bytes) noexcept {
  if (took == 0) took = time_for(bytes, assumed_rate);
  if (last_foreground_ != 0 && now - last_foreground_ < foreground_lasts) {
    const Time pause = std::min(2 * took, time_for(bytes, std::max<std::uint64_t>(min_rate_, 1)));
    yield_until_ = now + pause;
  } else {
    yield_until_ = 0;
  }
  if (now - window_began_ >= window) {
    speed_ = window_bytes_ * second / std::max<Time>(now - window_began_, 1);
    window_began_ = now;
    window_bytes_ = 0;
  }
  window_bytes_ += bytes;
}

std::uint64_t Pace::speed(Time now) const noexcept {
  const Time age = now - window_began_;
  if (age >= 2 * window) return 0;  // nothing for a while
  if (age < window / 2 && speed_ != 0) return speed_;
  return window_bytes_ * second / std::max<Time>(age, 50 * millisecond);
}

Progress progress_of(const Pace& pace, std::uint64_t left, std::uint64_t done, bool running,
                     Time now) noexcept {
  Progress p;
  p.running = running;
  p.paused = pace.paused();
  p.bytes_left = left;
  p.bytes_done = done;
  p.bytes_second = running ? pace.speed(now) : 0;
  if (p.bytes_second > 0) p.left = time_for(left, p.bytes_second);
  return p;
}

}  // namespace blockloom::mirror
