#pragma once

#include <array>
#include <atomic>
#include <condition_variable>
#include <cstdint>
#include <mutex>

#include "server/base/clock.hpp"
#include "server/base/thread.hpp"

namespace blockloom {

/// A door that requests pass: counts those inside, can be closed to newcomers, and can wait until
/// everyone has left. Passing an open gate writes only a cache line of the caller's shard.
///
/// enter() and exit() may run on any thread; an exit names the shard of its enter. close(),
/// open() and wait_idle() belong to one owner at a time. Whoever holds a place inside keeps the
/// gate's memory alive until exit() has returned.
class IoGate {
 public:
  IoGate() = default;
  ~IoGate();
  IoGate(const IoGate&) = delete;
  IoGate& operator=(const IoGate&) = delete;

  /// Some of those inside can be marked, and are counted apart, at no further cost.
  enum class Mark : std::int64_t { no = 1, yes = (std::int64_t{1} << 32) + 1 };

  /// False when the gate is closed: the caller is not inside.
  bool enter(std::size_t shard, Mark mark = Mark::no) noexcept {
    shards_[shard].inside.fetch_add(static_cast<std::int64_t>(mark), std::memory_order_seq_cst);
    if (!closed_.load(std::memory_order_seq_cst)) [[likely]]
      return true;
    exit(shard, mark);
    return false;
  }

  /// For the owner: goes in although the gate is closed.
  void enter_closed(std::size_t shard) noexcept {
    shards_[shard].inside.fetch_add(1, std::memory_order_seq_cst);
  }

  /// Takes the mark back from one who stays inside.
  void unmark(std::size_t shard) noexcept {
    shards_[shard].inside.fetch_sub(std::int64_t{1} << 32, std::memory_order_seq_cst);
  }

  void exit(std::size_t shard, Mark mark = Mark::no) noexcept {
    shards_[shard].inside.fetch_sub(static_cast<std::int64_t>(mark), std::memory_order_seq_cst);
    if (closed_.load(std::memory_order_seq_cst)) [[unlikely]]
      wake();
  }

  void close() noexcept { closed_.store(true, std::memory_order_seq_cst); }
  void open() noexcept { closed_.store(false, std::memory_order_seq_cst); }
  bool closed() const noexcept { return closed_.load(std::memory_order_seq_cst); }

  /// After close(): true once nobody is inside, false when the deadline passed first.
  bool wait_idle(TimePoint deadline) noexcept;

  /// Those inside now; exact only while the gate is closed.
  std::uint64_t inside() const noexcept;
  /// Of those, the marked ones. Zero is exact once all newcomers come without the mark.
  std::uint64_t marked() const noexcept;

 private:
  struct alignas(64) Shard {
    std::atomic<std::int64_t> inside{0};
  };

  void wake() noexcept;

  std::atomic<bool> closed_{false};
  std::array<Shard, shard_count> shards_;
  std::mutex mutex_;  // only for sleeping on idle_
  std::condition_variable idle_;
};

}  // namespace blockloom
