#include "server/daemon/hangup.hpp"

#include <atomic>
#include <cerrno>
#include <cstdint>

#include <sys/eventfd.h>
#include <unistd.h>

#include "server/base/thread.hpp"

namespace blockloom {
namespace {

// What the handler writes to: an eventfd that the first watch opens and nobody closes, because a
// handler on another thread may still hold its number. Read in signal context: lock-free.
std::atomic<int> hangup_fd{-1};
static_assert(std::atomic<int>::is_always_lock_free);
std::atomic<bool> watched{false};

// Far over any number of signals that may come between two reads.
constexpr std::uint64_t stop_token = 1ULL << 48;

void add(int fd, std::uint64_t n) noexcept {
  // Fails only if the counter is full, and then the reader is awake anyway.
  [[maybe_unused]] const ssize_t r = ::write(fd, &n, sizeof n);
}

extern "C" void on_sighup(int) {
  const int saved = errno;
  if (const int fd = hangup_fd.load(std::memory_order_relaxed); fd >= 0) add(fd, 1);
  errno = saved;
}

}  // namespace

Result<std::unique_ptr<HangupWatch>> HangupWatch::start(std::function<void()> callback) {
  if (watched.exchange(true)) return Error{Errc::busy, "SIGHUP is already watched in this process"};
  if (hangup_fd.load() < 0) hangup_fd.store(::eventfd(0, EFD_CLOEXEC));
  if (hangup_fd.load() < 0) {
    watched.store(false);
    return system_error("eventfd for SIGHUP", errno);
  }
  std::unique_ptr<HangupWatch> watch(new HangupWatch(std::move(callback)));
  struct sigaction action {};
  action.sa_handler = on_sighup;
  action.sa_flags = SA_RESTART;
  sigemptyset(&action.sa_mask);
  if (::sigaction(SIGHUP, &action, &watch->previous_) != 0)
    return system_error("sigaction SIGHUP", errno);
  return watch;
}

HangupWatch::HangupWatch(std::function<void()> callback)
    : callback_(std::move(callback)), thread_([this] { run(); }) {
  ::sigaction(SIGHUP, nullptr, &previous_);  // so that the destructor always has one to restore
}

HangupWatch::~HangupWatch() {
  ::sigaction(SIGHUP, &previous_, nullptr);
  add(hangup_fd.load(), stop_token);
  thread_.join();
  watched.store(false);
}

void HangupWatch::run() {
  set_thread_name("bl-signals");
  block_signals();
  for (;;) {
    std::uint64_t count = 0;
    if (::read(hangup_fd.load(), &count, sizeof count) != sizeof count)
      continue;  // EINTR only: an eventfd in blocking mode has no other failure
    if (count >= stop_token) return;
    callback_();
  }
}

}  // namespace blockloom
