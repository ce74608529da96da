#include "server/leg/waiting_caller.hpp"

namespace blockloom {

thread_local WaitingCaller* WaitingCaller::current_ = nullptr;

void WaitingCaller::tell(int news) noexcept {
  const std::lock_guard lock(mutex_);
  news_.store(news, std::memory_order_seq_cst);
  if (helping_ != nullptr) helping_->interrupt(*this);
  changed_.notify_one();
}

int WaitingCaller::wait() noexcept {
  // Goes after the lock: until then the teller may be in its interrupt().
  std::shared_ptr<CallerHelp> helper;
  if (help_ && !told()) {
    {
      const std::lock_guard lock(mutex_);
      helping_ = help_.get();
      nudged_ = false;
    }
    current_ = nullptr;  // what a helper submits is not what this thread waits for
    help_->wait(*this);
    current_ = this;
    helper = std::move(help_);
  } else if (help_) {
    std::exchange(help_, nullptr)->decline();
  }
  std::unique_lock lock(mutex_);
  helping_ = nullptr;
  changed_.wait(lock, [this] { return news_.load(std::memory_order_relaxed) != 0; });
  return news_.exchange(0, std::memory_order_relaxed);
}

void WaitingCaller::await_nudge() noexcept {
  std::unique_lock lock(mutex_);
  changed_.wait(lock, [this] { return nudged_ || news_.load(std::memory_order_relaxed) != 0; });
  nudged_ = false;
}

void WaitingCaller::nudge() noexcept {
  const std::lock_guard lock(mutex_);
  nudged_ = true;
  changed_.notify_one();
}

}  // namespace blockloom
