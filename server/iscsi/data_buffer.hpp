#pragma once

#include <array>
#include <atomic>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <mutex>
#include <utility>

#include "server/base/thread.hpp"

namespace blockloom {

class DataBufferPool;

/// Memory for a task's data, aligned to 4096. Movable, one owner; goes back to its pool with its
/// owner, on any thread. What it holds before it is written is another task's: only bytes that
/// were produced or received are ever read.
class DataBuffer {
 public:
  DataBuffer() = default;
  DataBuffer(DataBuffer&& other) noexcept
      : pool_(std::exchange(other.pool_, nullptr)),
        data_(std::exchange(other.data_, nullptr)),
        capacity_(std::exchange(other.capacity_, 0)) {}
  DataBuffer& operator=(DataBuffer&& other) noexcept {
    if (this != &other) {
      reset();
      pool_ = std::exchange(other.pool_, nullptr);
      data_ = std::exchange(other.data_, nullptr);
      capacity_ = std::exchange(other.capacity_, 0);
    }
    return *this;
  }
  ~DataBuffer() { reset(); }

  std::byte* data() const noexcept { return data_; }
  std::size_t capacity() const noexcept { return capacity_; }
  explicit operator bool() const noexcept { return data_ != nullptr; }

  /// Gives the memory back now.
  void reset() noexcept;

 private:
  friend class DataBufferPool;
  DataBuffer(DataBufferPool* pool, std::byte* data, std::size_t capacity)
      : pool_(pool), data_(data), capacity_(capacity) {}

  DataBufferPool* pool_ = nullptr;
  std::byte* data_ = nullptr;
  std::size_t capacity_ = 0;
};

/// Hands out buffers in sizes of powers of two from 4 KiB, and keeps those that come back, a
/// bounded number in each thread's shard. Any thread. Outlives its buffers.
class DataBufferPool {
 public:
  static constexpr std::size_t smallest = 4096;
  static constexpr std::size_t largest = std::size_t{32} << 20;

  /// At most `limit` bytes are out at any time.
  explicit DataBufferPool(std::size_t limit);
  ~DataBufferPool();
  DataBufferPool(const DataBufferPool&) = delete;
  DataBufferPool& operator=(const DataBufferPool&) = delete;

  /// An empty buffer: more than `largest`, the limit, or no memory; the command then ends with
  /// TASK SET FULL. Zero bytes are the smallest size.
  DataBuffer take(std::size_t bytes) noexcept;

  std::size_t bytes_out() const noexcept;

 private:
  friend class DataBuffer;
  static constexpr std::size_t classes = 14;       // 4 KiB to 32 MiB
  static constexpr std::size_t kept_count = 64;    // in a shard and class
  static constexpr std::size_t small = 64 * 1024;  // kept without counting their bytes
  /// Of larger ones, altogether: new memory for each would cost a page fault for every 4 KiB.
  static constexpr std::size_t kept_bytes = std::size_t{64} << 20;

  struct Free {
    Free* next;
  };
  struct alignas(64) Shard {
    std::mutex mutex;
    std::array<Free*, classes> heads{};
    std::array<std::uint32_t, classes> counts{};
  };

  static std::size_t class_of(std::size_t bytes) noexcept;
  void give_back(std::byte* data, std::size_t capacity) noexcept;

  const std::size_t limit_;
  std::atomic<std::size_t> out_{0};
  std::atomic<std::size_t> kept_{0};
  std::array<Shard, shard_count> shards_;
};

}  // namespace blockloom
