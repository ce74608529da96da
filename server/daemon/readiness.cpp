#include "server/daemon/readiness.hpp"

#include <cerrno>
#include <chrono>
#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <cstring>

#include <fmt/format.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <systemd/sd-daemon.h>
#include <unistd.h>

#include "server/base/error.hpp"
#include "server/base/log.hpp"
#include "server/base/thread.hpp"

namespace blockloom {
namespace {

/// sd_notify(3)'s protocol. Not its function, which waits without bound for a manager that does
/// not read: a shutdown must not hang on that.
void notify(const std::string& message) {
  const char* path = std::getenv("NOTIFY_SOCKET");
  if (path == nullptr) return;
  const std::size_t length = std::strlen(path);
  sockaddr_un address{};
  address.sun_family = AF_UNIX;
  if (length < 2 || length >= sizeof address.sun_path || (path[0] != '/' && path[0] != '@')) return;
  std::memcpy(address.sun_path, path, length);
  if (path[0] == '@') address.sun_path[0] = 0;  // the abstract namespace

  const int fd = ::socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC, 0);
  if (fd < 0) return;
  const timeval patience{.tv_sec = 1, .tv_usec = 0};
  ::setsockopt(fd, SOL_SOCKET, SO_SNDTIMEO, &patience, sizeof patience);
  const auto size = static_cast<socklen_t>(offsetof(sockaddr_un, sun_path) + length);
  if (::sendto(fd, message.data(), message.size(), MSG_NOSIGNAL,
               reinterpret_cast<const sockaddr*>(&address), size) < 0)
    log_warning(system_error("cannot notify the service manager", errno).message);
  ::close(fd);
}

/// A line break in the text would start another assignment.
std::string_view one_line(std::string_view text) {
  return text.substr(0, text.find('\n'));
}

}  // namespace

namespace readiness {

void ready(std::string_view text) {
  notify(fmt::format("READY=1\nSTATUS={}", one_line(text)));
}

void reloading() {
  using namespace std::chrono;
  // Steady clock and systemd's CLOCK_MONOTONIC are the same clock.
  const auto us = duration_cast<microseconds>(Clock::now().time_since_epoch()).count();
  notify(fmt::format("RELOADING=1\nMONOTONIC_USEC={}\nSTATUS=reloading the configuration", us));
}

void stopping() {
  notify("STOPPING=1\nSTATUS=stopping");
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
    notify("WATCHDOG=1");
  while (!changed_.wait_for(lock, interval_, [this] { return stop_; }));
}

}  // namespace blockloom
