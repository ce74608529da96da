#include "server/base/fork_point.hpp"

#include <mutex>
#include <utility>
#include <vector>

namespace blockloom {
namespace {

struct ForkPoint {
  std::mutex mutex;  // protects what follows
  bool held = false;
  std::vector<std::function<void()>> waiting;
};

ForkPoint& fork_point() {
  static ForkPoint point;
  return point;
}

}  // namespace

void hold_threads() noexcept {
  const std::lock_guard lock(fork_point().mutex);
  fork_point().held = true;
}

void release_threads() {
  std::vector<std::function<void()>> waiting;
  {
    const std::lock_guard lock(fork_point().mutex);
    fork_point().held = false;
    waiting.swap(fork_point().waiting);
  }
  for (const auto& run : waiting)
    run();
}

bool threads_may_start() noexcept {
  const std::lock_guard lock(fork_point().mutex);
  return !fork_point().held;
}

void when_threads_may_start(std::function<void()> run) {
  {
    const std::lock_guard lock(fork_point().mutex);
    if (fork_point().held) {
      fork_point().waiting.push_back(std::move(run));
      return;
    }
  }
  run();
}

}  // namespace blockloom
