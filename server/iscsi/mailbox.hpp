#pragma once

#include <atomic>
#include <functional>
#include <memory>

namespace blockloom::iscsi {

/// Something to be done on a connection's thread. Part of what it is about; in a mailbox at most
/// once at a time. deliver() may destroy it.
struct Mail {
  Mail* next = nullptr;
  void (*deliver)(Mail&) noexcept = nullptr;
  void* owner = nullptr;
};

/// How other threads reach one: they push, it drains. Mail is delivered in the order of pushing.
class Mailbox {
 public:
  virtual ~Mailbox() = default;

  /// Any thread. The mail is not touched after it was handed over.
  void push(Mail& mail) noexcept {
    Mail* old = head_.load(std::memory_order_relaxed);
    do
      mail.next = old;
    while (!head_.compare_exchange_weak(old, &mail, std::memory_order_release,
                                        std::memory_order_relaxed));
    if (old == nullptr) wake();
  }

  /// Any thread; allocates, so not for the data path.
  void post(std::function<void()> work);

  /// The owner's thread: delivers what came so far.
  void drain() noexcept;

 protected:
  /// The box was empty: drain() has to run soon. Any thread; the box outlives the call.
  virtual void wake() noexcept = 0;

 private:
  std::atomic<Mail*> head_{nullptr};
};

}  // namespace blockloom::iscsi
