#pragma once

#include <condition_variable>
#include <mutex>
#include <string>
#include <string_view>
#include <thread>

#include "server/base/clock.hpp"

namespace blockloom {

/// What the process tells systemd (sd_notify(3)). Without NOTIFY_SOCKET every call does nothing;
/// a manager that does not listen is waited for at most a second. Any thread.
namespace readiness {
void ready(std::string_view status);
void reloading();  ///< ready() ends it
void stopping();
/// The service manager's patience (WATCHDOG_USEC, meant for this process); 0: no watchdog.
Duration watchdog();
}  // namespace readiness

/// Tells systemd twice per watchdog period that the process still runs. Its thread starts in the
/// constructor and ends in the destructor.
class WatchdogPinger {
 public:
  explicit WatchdogPinger(Duration period);
  ~WatchdogPinger();
  WatchdogPinger(const WatchdogPinger&) = delete;
  WatchdogPinger& operator=(const WatchdogPinger&) = delete;

 private:
  void run();

  const Duration interval_;
  std::mutex mutex_;  // protects stop_
  std::condition_variable changed_;
  bool stop_ = false;
  std::thread thread_;
};

}  // namespace blockloom
