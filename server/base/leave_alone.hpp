#pragma once

#include <thread>

namespace blockloom {

/// Parts with a thread that cannot be joined: it hangs in a call which nothing ends (a file on a
/// dead network folder), after a bounded wait; or it is the caller's own. It must own all that it
/// will touch. The last resort.
inline void leave_alone(std::thread& thread) noexcept {
  thread.detach();
}

}  // namespace blockloom
