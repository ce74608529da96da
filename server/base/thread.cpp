#include "server/base/thread.hpp"

#include <atomic>

#include <pthread.h>
#include <signal.h>

namespace blockloom {

void set_thread_name(const std::string& name) noexcept {
  char buffer[16] = {};
  name.copy(buffer, sizeof buffer - 1);
  pthread_setname_np(pthread_self(), buffer);
}

void block_signals() noexcept {
  sigset_t all;
  sigfillset(&all);
  pthread_sigmask(SIG_BLOCK, &all, nullptr);
}

namespace detail {
std::size_t next_thread_shard() noexcept {
  static std::atomic<std::size_t> next{0};
  return next.fetch_add(1, std::memory_order_relaxed) % shard_count;
}
}  // namespace detail

}  // namespace blockloom
