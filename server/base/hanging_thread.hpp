#pragma once

#include <thread>

namespace blockloom {

/// Parts with a thread that hangs in a call which nothing ends (a file on a dead network folder):
/// it cannot be joined, and must own all that it will touch. The last resort, after a bounded wait.
inline void leave_hanging(std::thread& thread) noexcept {
  thread.detach();
}

}  // namespace blockloom
