#pragma once

#include <functional>

namespace blockloom {

/// A frontend that sets its devices up and then forks (nbdkit) holds threads back until after the
/// fork: one that was started before is dead in the child. Who needs a thread of its own asks here.

/// From now on until release_threads(), threads may not be started. Before anything else runs.
void hold_threads() noexcept;
/// After the fork; runs what waits, in order, in the caller.
void release_threads();
bool threads_may_start() noexcept;
/// Runs at once if threads may start, else from release_threads().
void when_threads_may_start(std::function<void()> run);

}  // namespace blockloom
