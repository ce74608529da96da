#include "plugins/nbdkit/bridge.hpp"

#include <condition_variable>
#include <mutex>

namespace blockloom::nbd {
namespace {

/// Where a worker sleeps until its request comes back. It lives on the worker's stack: the waker
/// signals under the mutex, so that the worker cannot leave before the waker's last touch, which
/// is the unlocking.
class Waiter {
 public:
  enum class News { none, ended, retry };

  void tell(News news) noexcept {
    const std::lock_guard lock(mutex_);
    news_ = news;
    told_.notify_one();
  }

  News wait() noexcept {
    std::unique_lock lock(mutex_);
    told_.wait(lock, [this] { return news_ != News::none; });
    return std::exchange(news_, News::none);
  }

 private:
  std::mutex mutex_;
  std::condition_variable told_;
  News news_ = News::none;
};

}  // namespace

Errc run(Device& device, Request& request) noexcept {
  Waiter waiter;
  request.owner = &waiter;
  request.complete = [](Request& r) noexcept {
    static_cast<Waiter*>(r.owner)->tell(Waiter::News::ended);
  };
  request.retry = [](Request& r) noexcept {
    static_cast<Waiter*>(r.owner)->tell(Waiter::News::retry);
  };
  for (;;) {
    if (device.submit(request) == Submit::done) return request.status;
    if (waiter.wait() == Waiter::News::ended) return request.status;
  }
}

}  // namespace blockloom::nbd
