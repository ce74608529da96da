#include "server/target/mirror/recovery.hpp"

#include <doctest/doctest.h>

namespace blockloom::mirror {
namespace {

constexpr std::uint64_t mib = 1 << 20;

/// Copies chunks of a MiB that take `took` each, for that long; the bytes copied.
std::uint64_t copy_for(Pace& pace, Time& now, Time span, Time took, bool foreground) {
  const Time end = now + span;
  std::uint64_t bytes = 0;
  while (now < end) {
    if (foreground) pace.foreground(now);
    const Time start = pace.next_start(now);
    if (start > now) {
      now = std::min(start, now + 10 * millisecond);
      continue;
    }
    pace.chunk_started(now, mib);
    now += took;
    pace.chunk_ended(now, took, mib);
    bytes += mib;
  }
  return bytes;
}

TEST_CASE("a resync keeps to the rate that was set") {
  Pace pace(10 * mib, mib);
  Time now = 100 * second;
  const std::uint64_t bytes = copy_for(pace, now, 10 * second, millisecond, false);
  CHECK(bytes >= 95 * mib);
  CHECK(bytes <= 110 * mib);
  pace.set_rate(0);
  CHECK(copy_for(pace, now, second, millisecond, false) >= 990 * mib);
}

TEST_CASE("it takes a third of the time while there is foreground I/O, and all of it after") {
  Pace pace(0, mib);
  Time now = 100 * second;
  const std::uint64_t busy = copy_for(pace, now, 3 * second, 10 * millisecond, true);
  CHECK(busy >= 80 * mib);
  CHECK(busy <= 110 * mib);
  now += second;
  CHECK(copy_for(pace, now, 3 * second, 10 * millisecond, false) >= 290 * mib);
}

TEST_CASE("it yields no more than its least rate allows") {
  Pace pace(0, 4 * mib);
  Time now = 100 * second;
  // Chunks of 200 ms would pause 400 ms each: 1.7 MiB a second.
  const std::uint64_t bytes = copy_for(pace, now, 20 * second, 200 * millisecond, true);
  CHECK(bytes >= 40 * mib);
}

TEST_CASE("it yields also where the clock did not move with the chunk") {
  Pace pace(0, mib);
  const Time now = 100 * second;
  pace.foreground(now);
  pace.chunk_started(now, mib);
  pace.chunk_ended(now, 0, mib);
  CHECK(pace.next_start(now) > now + 3 * millisecond);
  CHECK(pace.next_start(now) < now + 5 * millisecond);
}

TEST_CASE("paused is paused") {
  Pace pace(0, mib);
  pace.pause();
  CHECK(pace.next_start(second) == never);
  pace.unpause();
  CHECK(pace.next_start(second) == second);
}

TEST_CASE("a pause is not made up for in one burst") {
  Pace pace(10 * mib, mib);
  Time now = 100 * second;
  copy_for(pace, now, second, millisecond, false);
  now += 100 * second;
  CHECK(copy_for(pace, now, 100 * millisecond, millisecond, false) <= 4 * mib);
}

TEST_CASE("progress estimates the time that is left from the speed of the last seconds") {
  Pace pace(10 * mib, mib);
  Time now = 100 * second;
  copy_for(pace, now, 5 * second, millisecond, false);
  const Progress p = progress_of(pace, 100 * mib, 50 * mib, true, now);
  CHECK(p.running);
  CHECK(p.bytes_second > 8 * mib);
  CHECK(p.bytes_second < 12 * mib);
  CHECK(p.left > 8 * second);
  CHECK(p.left < 13 * second);
  CHECK(progress_of(pace, 100 * mib, 0, true, now + 60 * second).left == never);
  CHECK(progress_of(pace, 0, 0, false, now).bytes_second == 0);
}

}  // namespace
}  // namespace blockloom::mirror
