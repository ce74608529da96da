#include "server/io/buffer_pool.hpp"

#include <bit>
#include <cstdlib>
#include <new>

#include <fmt/format.h>

namespace blockloom {
namespace {
constexpr std::size_t alignment = 4096;  // for legs that read and write around the page cache
}

void IoBufferRef::reset() noexcept {
  detail::IoBuffer* buffer = std::exchange(buffer_, nullptr);
  if (buffer == nullptr || buffer->references.fetch_sub(1, std::memory_order_acq_rel) != 1) return;
  const std::shared_ptr<IoBufferPool> pool = std::move(buffer->pool);
  pool->give_back(buffer);
}

std::size_t IoBufferPool::class_of(std::uint64_t length) noexcept {
  const unsigned bits = static_cast<unsigned>(std::bit_width(length > 0 ? length - 1 : 0));
  return bits > smallest_shift ? bits - smallest_shift : 0;
}

detail::IoBuffer* IoBufferPool::allocate(std::size_t size_class) noexcept {
  auto* buffer = new (std::nothrow) detail::IoBuffer;
  if (buffer == nullptr) return nullptr;
  buffer->size_class = static_cast<std::uint8_t>(size_class);
  buffer->data = static_cast<std::byte*>(std::aligned_alloc(alignment, size_of(size_class)));
  if (buffer->data != nullptr) return buffer;
  delete buffer;
  return nullptr;
}

void IoBufferPool::free(detail::IoBuffer* buffer) noexcept {
  std::free(buffer->data);
  delete buffer;
}

Result<std::shared_ptr<IoBufferPool>> IoBufferPool::create(const Options& options) {
  if (class_of(options.largest.value) >= class_count)
    return Error{Errc::invalid, fmt::format("buffers of {} bytes: expected at most {}",
                                            options.largest.value, size_of(class_count - 1))};
  std::shared_ptr<IoBufferPool> pool(new IoBufferPool(options));
  for (std::size_t i = 0; i < options.reserve; ++i) {
    detail::IoBuffer* buffer = allocate(class_of(options.largest.value));
    if (buffer == nullptr)
      return Error{Errc::no_memory, fmt::format("no memory for {} buffers of {} bytes",
                                                options.reserve, options.largest.value)};
    buffer->reserved = true;
    buffer->next_free = std::exchange(pool->reserve_, buffer);
  }
  return pool;
}

IoBufferPool::~IoBufferPool() {
  const auto free_list = [](detail::IoBuffer* list) {
    while (list != nullptr)
      free(std::exchange(list, list->next_free));
  };
  for (detail::IoBuffer* list : free_)
    free_list(list);
  free_list(reserve_);
}

detail::IoBuffer* IoBufferPool::take(std::size_t size_class) noexcept {
  const std::lock_guard lock(mutex_);
  if (out_.load(std::memory_order_relaxed) + size_of(size_class) <= options_.limit.value) {
    detail::IoBuffer*& list = free_[size_class];
    detail::IoBuffer* buffer = list;
    if (buffer != nullptr) {
      list = buffer->next_free;
      idle_ -= size_of(size_class);
    } else {
      buffer = allocate(size_class);
    }
    if (buffer != nullptr) {
      out_.fetch_add(size_of(size_class), std::memory_order_relaxed);
      return buffer;
    }
  }
  detail::IoBuffer* buffer = reserve_;
  if (buffer != nullptr)
    reserve_ = buffer->next_free;
  else
    refused_ = true;
  return buffer;
}

IoBufferRef IoBufferPool::acquire(Bytes length) noexcept {
  if (length > options_.largest) return {};
  detail::IoBuffer* buffer = take(class_of(length.value));
  if (buffer == nullptr) return {};
  buffer->references.store(1, std::memory_order_relaxed);
  buffer->pool = shared_from_this();
  return IoBufferRef(buffer);
}

void IoBufferPool::give_back(detail::IoBuffer* buffer) noexcept {
  bool tell = false;
  {
    const std::lock_guard lock(mutex_);
    const std::uint64_t size = size_of(buffer->size_class);
    if (buffer->reserved) {
      buffer->next_free = std::exchange(reserve_, buffer);
      buffer = nullptr;
    } else {
      out_.fetch_sub(size, std::memory_order_relaxed);
      if (idle_ + size <= options_.idle_limit.value) {
        idle_ += size;
        buffer->next_free = std::exchange(free_[buffer->size_class], buffer);
        buffer = nullptr;
      }
    }
    tell = std::exchange(refused_, false);
  }
  if (buffer != nullptr) free(buffer);
  if (tell && room_) room_();
}

}  // namespace blockloom
