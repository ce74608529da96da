#pragma once

#include <atomic>
#include <functional>
#include <thread>

#include "plugins/nbdkit/client_sockets.hpp"
#include "server/base/error.hpp"

namespace blockloom::nbd {

/// Sees to it that a quitting nbdkit ends. On SIGTERM, SIGINT and SIGQUIT nbdkit waits for every
/// running request and every client; this watches for these signals beside it, ends the requests
/// that wait for something (by the function given to start()), and makes clients hang up.
///
/// nbdkit_nanosleep() would tell of the quitting too, but writes an error to the log each time.
/// A quit without a signal (nbdkit_shutdown, which filters call) comes when no client is left,
/// and needs no help.
class QuitWatcher {
 public:
  QuitWatcher() = default;
  ~QuitWatcher();
  QuitWatcher(const QuitWatcher&) = delete;
  QuitWatcher& operator=(const QuitWatcher&) = delete;

  /// After the fork: takes the listeners down.
  void note_listeners() { sockets_.note_listeners(); }

  /// After the fork: takes the signals over (nbdkit's own handlers run as well) and starts the
  /// thread. `end_waiting` runs once, on that thread. Called once; one watcher a process.
  Result<void> start(std::function<void()> end_waiting);

  /// Gives the signals back, joins the thread, and hangs up on whoever is left. Idempotent.
  void stop() noexcept;

 private:
  void run();
  bool stop_requested_within(int milliseconds) const;

  ClientSockets sockets_;
  std::function<void()> end_waiting_;
  int stop_fd_ = -1;
  std::thread thread_;
};

}  // namespace blockloom::nbd
