#include "plugins/nbdkit/quit_watcher.hpp"

#include <array>
#include <cerrno>
#include <csignal>
#include <system_error>

#include <fcntl.h>
#include <poll.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include "server/base/clock.hpp"
#include "server/base/log.hpp"
#include "server/base/thread.hpp"

namespace blockloom::nbd {
namespace {

/// How long clients may take to read the last answers.
constexpr auto patience = std::chrono::seconds(3);
constexpr int hang_up_interval_ms = 100;

constexpr std::array quit_signals{SIGTERM, SIGINT, SIGQUIT};

// A signal handler reaches only what is global.
std::atomic<int> quit_fd{-1};
std::array<struct sigaction, quit_signals.size()> handlers_before;

void poke(int fd) noexcept {
  const std::uint64_t one = 1;
  // An eventfd that is full has been poked already.
  [[maybe_unused]] const ssize_t n = ::write(fd, &one, sizeof one);
}

void on_quit_signal(int signal_number) {
  const int saved = errno;
  poke(quit_fd.load(std::memory_order_relaxed));
  for (std::size_t i = 0; i < quit_signals.size(); ++i)
    if (quit_signals[i] == signal_number) handlers_before[i].sa_handler(signal_number);
  errno = saved;
}

void take_signals() noexcept {
  struct sigaction action {};
  action.sa_handler = on_quit_signal;
  action.sa_flags = SA_RESTART;
  sigemptyset(&action.sa_mask);
  for (std::size_t i = 0; i < quit_signals.size(); ++i) {
    ::sigaction(quit_signals[i], nullptr, &handlers_before[i]);
    // A signal that nbdkit leaves alone stays as it is: chaining could not end the process.
    if (handlers_before[i].sa_handler != SIG_DFL && handlers_before[i].sa_handler != SIG_IGN)
      ::sigaction(quit_signals[i], &action, nullptr);
  }
}

void give_signals_back() noexcept {
  for (std::size_t i = 0; i < quit_signals.size(); ++i)
    ::sigaction(quit_signals[i], &handlers_before[i], nullptr);
}

}  // namespace

Result<void> QuitWatcher::start(std::function<void()> end_waiting) {
  end_waiting_ = std::move(end_waiting);
  stop_fd_ = ::eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
  const int quit = ::eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
  quit_fd.store(quit);
  if (stop_fd_ < 0 || quit < 0) {
    return system_error("watching for the end: eventfd", errno);
  }
  try {
    thread_ = std::thread([this] { run(); });
  } catch (const std::system_error& e) {
    return system_error("watching for the end: starting a thread", e.code().value());
  }
  take_signals();
  return {};
}

void QuitWatcher::stop() noexcept {
  if (!thread_.joinable()) return;
  give_signals_back();
  poke(stop_fd_);
  thread_.join();
  // nbdkit's thread for a client that it accepted last may not have counted itself yet.
  sockets_.hang_up();
}

QuitWatcher::~QuitWatcher() {
  stop();
  // Not in stop(): a handler may still be running on another thread.
  for (const int fd : {stop_fd_, quit_fd.exchange(-1)})
    if (fd >= 0) ::close(fd);
}

bool QuitWatcher::stop_requested_within(int milliseconds) const {
  pollfd asked{stop_fd_, POLLIN, 0};
  return ::poll(&asked, 1, milliseconds) == 1;
}

void QuitWatcher::run() {
  block_signals();
  set_thread_name("bl-quit");
  pollfd woken[2] = {{quit_fd.load(), POLLIN, 0}, {stop_fd_, POLLIN, 0}};
  while (::poll(woken, 2, -1) < 0 && errno == EINTR) {
  }
  if (woken[1].revents != 0) return;

  // First no new requests, then an end for those that wait. Connections may still be coming out
  // of nbdkit's accept: look again until nbdkit says (by cleanup) that all are gone.
  log(LogLevel::debug, "quitting: clients are asked to hang up, waiting requests end");
  sockets_.hang_up_reading();
  end_waiting_();
  const TimePoint impatient = Clock::now() + patience;
  while (!stop_requested_within(hang_up_interval_ms)) {
    if (Clock::now() < impatient)
      sockets_.hang_up_reading();
    else
      sockets_.hang_up();
  }
}

}  // namespace blockloom::nbd
