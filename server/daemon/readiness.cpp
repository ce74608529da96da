#include "server/daemon/readiness.hpp"

#include <chrono>
#include <cstdint>

#include <systemd/sd-daemon.h>

#include "server/base/thread.hpp"

namespace blockloom {
namespace readiness {

namespace {

/// One line of the protocol: a line break in the text would start another assignment.
std::string one_line(std::string_view text) {
  std::string line(text.substr(0, text.find('\n')));
  return line;
}

}  // namespace

void ready(std::string_view text) {
  sd_notifyf(0, "READY=1\nSTATUS=%s", one_line(text).c_str());
}

void reloading() {
  using namespace std::chrono;
  // Steady clock and systemd's CLOCK_MONOTONIC are the same clock.
  const auto us = duration_cast<microseconds>(Clock::now().time_since_epoch()).count();
  sd_notifyf(0, "RELOADING=1\nMONOTONIC_USEC=%lld\nSTATUS=reloading the configuration",
             static_cast<long long>(us));
}

void stopping() {
  sd_notify(0, "STOPPING=1\nSTATUS=stopping");
}

void status(std::string_view text) {
  sd_notifyf(0, "STATUS=%s", one_line(text).c_str());
}

Duration watchdog() {
  std::uint64_t us = 0;
  if (sd_watchdog_enabled(0, &us) <= 0) return Duration{};
  return std::chrono::microseconds(us);
}

}  // namespace readiness

WatchdogPinger::WatchdogPinger(Duration period)
    : interval_(period / 2), thread_([this] { run(); }) {}

WatchdogPinger::~WatchdogPinger() {
  {
    const std::lock_guard lock(mutex_);
    stop_ = true;
  }
  changed_.notify_all();
  thread_.join();
}

void WatchdogPinger::run() {
  set_thread_name("bl-watchdog");
  block_signals();
  std::unique_lock lock(mutex_);
  do
    sd_notify(0, "WATCHDOG=1");
  while (!changed_.wait_for(lock, interval_, [this] { return stop_; }));
}

}  // namespace blockloom
