#include "server/iscsi/data_buffer.hpp"

#include <bit>
#include <cassert>
#include <new>

namespace blockloom {

void DataBuffer::reset() noexcept {
  if (data_ != nullptr) pool_->give_back(data_, capacity_);
  pool_ = nullptr;
  data_ = nullptr;
  capacity_ = 0;
}

DataBufferPool::DataBufferPool(std::size_t limit) : limit_(limit) {}

DataBufferPool::~DataBufferPool() {
  assert(out_.load() == 0);
  for (Shard& shard : shards_)
    for (Free*& head : shard.heads)
      while (head != nullptr) {
        Free* const next = head->next;
        ::operator delete (head, std::align_val_t{4096});
        head = next;
      }
}

std::size_t DataBufferPool::class_of(std::size_t bytes) noexcept {
  if (bytes <= smallest) return 0;
  return static_cast<std::size_t>(std::bit_width(bytes - 1)) - 12;
}

std::size_t DataBufferPool::bytes_out() const noexcept {
  return out_.load(std::memory_order_relaxed);
}

DataBuffer DataBufferPool::take(std::size_t bytes) noexcept {
  if (bytes > largest) return {};
  const std::size_t index = class_of(bytes);
  const std::size_t size = smallest << index;
  if (out_.fetch_add(size, std::memory_order_relaxed) + size > limit_) {
    out_.fetch_sub(size, std::memory_order_relaxed);
    return {};
  }
  Shard& shard = shards_[this_thread_shard()];
  {
    std::lock_guard lock(shard.mutex);
    if (Free* const free = shard.heads[index]; free != nullptr) {
      shard.heads[index] = free->next;
      --shard.counts[index];
      if (size > small) kept_.fetch_sub(size, std::memory_order_relaxed);
      return DataBuffer(this, reinterpret_cast<std::byte*>(free), size);
    }
  }
  void* memory = ::operator new (size, std::align_val_t{4096}, std::nothrow);
  if (memory == nullptr) {
    out_.fetch_sub(size, std::memory_order_relaxed);
    return {};
  }
  return DataBuffer(this, static_cast<std::byte*>(memory), size);
}

void DataBufferPool::give_back(std::byte* data, std::size_t capacity) noexcept {
  out_.fetch_sub(capacity, std::memory_order_relaxed);
  const std::size_t index = class_of(capacity);
  Shard& shard = shards_[this_thread_shard()];
  {
    std::lock_guard lock(shard.mutex);
    std::uint32_t& count = shard.counts[index];
    const bool fits = capacity <= small ||
                      kept_.fetch_add(capacity, std::memory_order_relaxed) + capacity <= kept_bytes;
    if (!fits || (count >= kept_count && capacity > small))
      kept_.fetch_sub(capacity, std::memory_order_relaxed);
    if (fits && count < kept_count) {
      auto* const free = new (data) Free{shard.heads[index]};
      shard.heads[index] = free;
      ++count;
      return;
    }
  }
  ::operator delete (data, std::align_val_t{4096});
}

}  // namespace blockloom
