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

class IoBufferPool;

namespace detail {
/// A buffer's book; the data lies elsewhere, aligned to pages.
struct IoBuffer {
  std::atomic<std::uint32_t> references{0};
  std::uint8_t size_class = 0;
  bool reserved = false;
  std::byte* data = nullptr;
  IoBuffer* next_free = nullptr;
  std::shared_ptr<IoBufferPool> pool;  // while somebody has it
};
}  // namespace detail

/// A shared hold on a pooled buffer: the buffer goes back when the last one lets go. Copying and
/// dropping on any thread; one IoBufferRef belongs to one thread at a time.
class IoBufferRef {
 public:
  IoBufferRef() = default;
  IoBufferRef(const IoBufferRef& other) noexcept : buffer_(other.buffer_) {
    if (buffer_ != nullptr) buffer_->references.fetch_add(1, std::memory_order_relaxed);
  }
  IoBufferRef(IoBufferRef&& other) noexcept : buffer_(std::exchange(other.buffer_, nullptr)) {}
  IoBufferRef& operator=(IoBufferRef other) noexcept {
    std::swap(buffer_, other.buffer_);
    return *this;
  }
  ~IoBufferRef() { reset(); }

  explicit operator bool() const noexcept { return buffer_ != nullptr; }
  std::byte* data() const noexcept { return buffer_ != nullptr ? buffer_->data : nullptr; }
  Bytes capacity() const noexcept;
  void reset() noexcept;

 private:
  friend class IoBufferPool;
  explicit IoBufferRef(detail::IoBuffer* buffer) noexcept : buffer_(buffer) {}
  detail::IoBuffer* buffer_ = nullptr;
};

/// Buffers that all legs of a request share (rule W2 of the mirror protocol): a write that may
/// outlive its call is copied into one once. Sizes are powers of two. A number of the largest is
/// set aside at creation, so that I/O moves on when memory does not. Bounded. Any thread.
class IoBufferPool : public std::enable_shared_from_this<IoBufferPool> {
 public:
  struct Options {
    Bytes largest{1 << 20};      ///< of one buffer
    std::size_t reserve = 4;     ///< of the largest, allocated at creation
    Bytes limit{512ULL << 20};   ///< of all that are out at a time; the reserve comes on top
    Bytes idle_limit{16 << 20};  ///< of what is kept for reuse
  };

  /// Errc::no_memory: the reserve could not be had.
  static Result<std::shared_ptr<IoBufferPool>> create(const Options& options);
  ~IoBufferPool();
  IoBufferPool(const IoBufferPool&) = delete;
  IoBufferPool& operator=(const IoBufferPool&) = delete;

  /// A buffer of at least `length`, not cleared; empty when the bound is reached or memory is
  /// short and the reserve is out: try again when `on_room` runs. Lengths over `largest` are
  /// refused.
  IoBufferRef acquire(Bytes length) noexcept;

  /// Runs after a buffer came back while somebody had been refused; on whatever thread dropped
  /// it, so it only posts. Set before the first acquire, never throws.
  void on_room(std::function<void()> room) { room_ = std::move(room); }

  Bytes largest() const noexcept { return options_.largest; }
  /// Of the buffers that are out.
  Bytes out() const noexcept { return Bytes(out_.load(std::memory_order_relaxed)); }

 private:
  friend class IoBufferRef;
  static constexpr unsigned smallest_shift = 12;
  static constexpr std::size_t class_count = 16;  // up to 128 MiB

  explicit IoBufferPool(const Options& options) : options_(options) {}
  static std::size_t class_of(std::uint64_t length) noexcept;
  static std::uint64_t size_of(std::size_t size_class) noexcept {
    return std::uint64_t{1} << (smallest_shift + size_class);
  }
  static detail::IoBuffer* allocate(std::size_t size_class) noexcept;
  static void free(detail::IoBuffer* buffer) noexcept;
  detail::IoBuffer* take(std::size_t size_class) noexcept;
  void give_back(detail::IoBuffer* buffer) noexcept;

  const Options options_;
  std::function<void()> room_;
  std::atomic<std::uint64_t> out_{0};

  std::mutex mutex_;  // protects what follows
  std::array<detail::IoBuffer*, class_count> free_{};
  detail::IoBuffer* reserve_ = nullptr;
  std::uint64_t idle_ = 0;
  bool refused_ = false;
};

inline Bytes IoBufferRef::capacity() const noexcept {
  return buffer_ != nullptr ? Bytes(IoBufferPool::size_of(buffer_->size_class)) : Bytes(0);
}

}  // namespace blockloom
