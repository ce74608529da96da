#pragma once

#include <array>
#include <atomic>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>
#include <mutex>
#include <utility>

#include "server/base/error.hpp"
#include "server/base/units.hpp"

namespace blockloom {

class BufferPool;

namespace detail {
/// A buffer's book; the data lies elsewhere, aligned to pages.
struct Buffer {
  std::atomic<std::uint32_t> references{0};
  std::uint8_t size_class = 0;
  bool reserved = false;
  std::byte* data = nullptr;
  Buffer* next_free = nullptr;
  std::shared_ptr<BufferPool> pool;  // while somebody has it
};
}  // namespace detail

/// A shared hold on a pooled buffer: the buffer goes back when the last one lets go. Copying and
/// dropping on any thread; one BufferRef belongs to one thread at a time.
class BufferRef {
 public:
  BufferRef() = default;
  BufferRef(const BufferRef& other) noexcept : buffer_(other.buffer_) {
    if (buffer_ != nullptr) buffer_->references.fetch_add(1, std::memory_order_relaxed);
  }
  BufferRef(BufferRef&& other) noexcept : buffer_(std::exchange(other.buffer_, nullptr)) {}
  BufferRef& operator=(BufferRef other) noexcept {
    std::swap(buffer_, other.buffer_);
    return *this;
  }
  ~BufferRef() { reset(); }

  explicit operator bool() const noexcept { return buffer_ != nullptr; }
  std::byte* data() const noexcept { return buffer_ != nullptr ? buffer_->data : nullptr; }
  Bytes capacity() const noexcept;
  void reset() noexcept;

 private:
  friend class BufferPool;
  explicit BufferRef(detail::Buffer* buffer) noexcept : buffer_(buffer) {}
  detail::Buffer* buffer_ = nullptr;
};

/// Buffers that all legs of a request share (rule W2 of the mirror protocol): a write that may
/// outlive its call is copied into one once. Sizes are powers of two. A number of the largest is
/// set aside at creation, so that I/O moves on when memory does not. Bounded. Any thread.
class BufferPool : public std::enable_shared_from_this<BufferPool> {
 public:
  struct Options {
    Bytes largest{1 << 20};      ///< of one buffer
    std::size_t reserve = 4;     ///< of the largest, allocated at creation
    Bytes limit{512ULL << 20};   ///< of all that are out at a time; the reserve comes on top
    Bytes idle_limit{16 << 20};  ///< of what is kept for reuse
  };

  /// Errc::no_memory: the reserve could not be had.
  static Result<std::shared_ptr<BufferPool>> create(const Options& options);
  ~BufferPool();
  BufferPool(const BufferPool&) = delete;
  BufferPool& operator=(const BufferPool&) = delete;

  /// A buffer of at least `length`, not cleared; empty when the bound is reached or memory is
  /// short and the reserve is out: try again when `on_room` runs. Lengths over `largest` are
  /// refused.
  BufferRef acquire(Bytes length) noexcept;

  /// Runs after a buffer came back while somebody had been refused; on whatever thread dropped
  /// it, so it only posts. Set before the first acquire, never throws.
  void on_room(std::function<void()> room) { room_ = std::move(room); }

  Bytes largest() const noexcept { return options_.largest; }
  /// Of the buffers that are out.
  Bytes out() const noexcept { return Bytes(out_.load(std::memory_order_relaxed)); }

 private:
  friend class BufferRef;
  static constexpr unsigned smallest_shift = 12;
  static constexpr std::size_t class_count = 16;  // up to 128 MiB

  explicit BufferPool(const Options& options) : options_(options) {}
  static std::size_t class_of(std::uint64_t length) noexcept;
  static std::uint64_t size_of(std::size_t size_class) noexcept {
    return std::uint64_t{1} << (smallest_shift + size_class);
  }
  static detail::Buffer* allocate(std::size_t size_class) noexcept;
  static void free(detail::Buffer* buffer) noexcept;
  detail::Buffer* take(std::size_t size_class) noexcept;
  void give_back(detail::Buffer* buffer) noexcept;

  const Options options_;
  std::function<void()> room_;
  std::atomic<std::uint64_t> out_{0};

  std::mutex mutex_;  // protects what follows
  std::array<detail::Buffer*, class_count> free_{};
  detail::Buffer* reserve_ = nullptr;
  std::uint64_t idle_ = 0;
  bool refused_ = false;
};

inline Bytes BufferRef::capacity() const noexcept {
  return buffer_ != nullptr ? Bytes(BufferPool::size_of(buffer_->size_class)) : Bytes(0);
}

}  // namespace blockloom
