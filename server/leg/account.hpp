#pragma once

#include <array>
#include <atomic>
#include <cstdint>

#include "server/base/clock.hpp"
#include "server/base/thread.hpp"
#include "server/leg/io.hpp"

namespace blockloom {

/// What passed a device or a leg since it was opened.
struct IoTotals {
  std::uint64_t reads = 0, writes = 0, others = 0;  ///< requests; others: flush, trim, zero…
  std::uint64_t read_bytes = 0, write_bytes = 0;
  std::uint64_t errors = 0;
  std::uint64_t samples = 0, sampled_ns = 0;  ///< one request in eight is timed
  std::uint64_t in_flight = 0;
};

/// Counters of the hot path, sharded by thread. Any thread.
class IoAccount {
 public:
  /// The start time to hand to end(): 0 for the seven of eight requests that are not timed.
  static std::uint64_t start_time() noexcept {
    static thread_local unsigned count = 0;
    return (count++ & 7) == 0 ? now_ns() : 0;
  }

  void begin(std::size_t shard) noexcept { add(shards_[shard].begun, 1); }

  void end(std::size_t shard, Op op, Bytes length, Errc status, std::uint64_t start) noexcept {
    Shard& s = shards_[shard];
    if (op == Op::read) {
      add(s.reads, 1);
      add(s.read_bytes, length.value);
    } else if (op == Op::write) {
      add(s.writes, 1);
      add(s.write_bytes, length.value);
    } else {
      add(s.others, 1);
    }
    if (start != 0) [[unlikely]] {
      add(s.samples, 1);
      add(s.sampled_ns, now_ns() - start);
    }
    // What a leg cannot do, and says so, is no fault of it (dm-stripe counts the same way).
    if (status != Errc::ok && status != Errc::not_supported) [[unlikely]]
      add(errors_, 1);
  }

  IoTotals totals() const noexcept;

 private:
  using Counter = std::atomic<std::uint64_t>;
  /// One cache line. What is in flight is what has begun and was not counted as ended.
  struct alignas(64) Shard {
    Counter begun{0}, reads{0}, writes{0}, others{0}, read_bytes{0}, write_bytes{0}, samples{0},
        sampled_ns{0};
  };
  static void add(Counter& counter, std::uint64_t n) noexcept {
    counter.fetch_add(n, std::memory_order_relaxed);
  }

  std::array<Shard, shard_count> shards_;
  Counter errors_{0};
};

}  // namespace blockloom
