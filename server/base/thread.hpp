#pragma once

#include <cstddef>
#include <string>

namespace blockloom {

/// Names the calling thread, as `top -H` and gdb show it; cut to the kernel's 15 characters.
void set_thread_name(const std::string& name) noexcept;

/// Blocks all signals in the calling thread: they belong to nbdkit's main thread.
void block_signals() noexcept;

/// How many shards the hot counters have; a power of two.
inline constexpr std::size_t shard_count = 16;

/// A small number that the calling thread keeps, spread evenly over threads. Any thread.
inline std::size_t this_thread_shard() noexcept;

namespace detail {
std::size_t next_thread_shard() noexcept;
}  // namespace detail

inline std::size_t this_thread_shard() noexcept {
  static thread_local const std::size_t shard = detail::next_thread_shard();
  return shard;
}

}  // namespace blockloom
