#pragma once

#include <atomic>
#include <condition_variable>
#include <memory>
#include <mutex>
#include <utility>

namespace blockloom {

class WaitingCaller;

/// What a thread can do for a leg while it waits: read the leg's socket itself, instead of sleeping
/// until another thread has read its reply and wakes it. That hand-off costs more than half of a
/// small request (leader and follower: docs/design-notes.md).
class CallerHelp {
 public:
  virtual ~CallerHelp() = default;

  /// Runs on the caller's thread, and returns once caller.told(). The end of what offer() began.
  virtual void wait(WaitingCaller& caller) noexcept = 0;

  /// The other end of it: the caller's request ended otherwise, and it will not come to wait().
  virtual void decline() noexcept = 0;

  /// The caller, which is in wait(), was told. On the teller's thread, and under a lock of the
  /// caller's: takes no lock, only wakes.
  virtual void interrupt(WaitingCaller& caller) noexcept = 0;
};

/// A thread that submits a request and then only waits for its end: one of nbdkit's workers. Lives
/// on that thread's stack, and is current() there; a leg that gets an Io on this thread may take
/// its help, and the first one that asks has it. The teller signals under the mutex, so that the
/// caller cannot leave before the teller's last touch, which is the unlocking.
class WaitingCaller {
 public:
  WaitingCaller() noexcept : outer_(std::exchange(current_, this)) {}
  ~WaitingCaller() {
    if (help_) help_->decline();
    current_ = outer_;
  }
  WaitingCaller(const WaitingCaller&) = delete;
  WaitingCaller& operator=(const WaitingCaller&) = delete;

  /// Of this thread. Null: it does not wait for what it submits, or it helps a leg right now, and
  /// submits what others wait for.
  static WaitingCaller* current() noexcept { return current_; }

  /// By a leg, within a submit on the caller's thread. True: help->wait() or help->decline() comes.
  /// False: the caller is promised to another leg.
  bool offer(std::shared_ptr<CallerHelp> help) noexcept {
    if (help_) return false;
    help_ = std::move(help);
    return true;
  }

  /// Ends wait(). Any thread, once for each wait(); `news` is not 0.
  void tell(int news) noexcept;

  /// Waits until told, helping a leg meanwhile. Gives the news, and can be used again.
  int wait() noexcept;

  // --- for the helper, while the caller is in wait() ------------------------------------------

  bool told() const noexcept { return news_.load(std::memory_order_seq_cst) != 0; }
  /// On the caller's thread: sleeps until told, or nudged since the last await_nudge().
  void await_nudge() noexcept;
  /// Ends await_nudge().
  void nudge() noexcept;

 private:
  static thread_local WaitingCaller* current_;

  WaitingCaller* const outer_;
  std::shared_ptr<CallerHelp> help_;  // the thread's own

  std::atomic<int> news_{0};  // set under the mutex
  std::mutex mutex_;          // protects what follows
  std::condition_variable changed_;
  CallerHelp* helping_ = nullptr;
  bool nudged_ = false;
};

}  // namespace blockloom
