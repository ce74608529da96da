#include "server/iscsi/mailbox.hpp"

#include <utility>

namespace blockloom::iscsi {

void Mailbox::post(std::function<void()> work) {
  struct Work final : Mail {
    std::function<void()> function;
  };
  auto mail = std::make_unique<Work>();
  mail->function = std::move(work);
  mail->deliver = [](Mail& self) noexcept {
    const std::unique_ptr<Work> mine(static_cast<Work*>(&self));
    mine->function();
  };
  push(*mail.release());
}

void Mailbox::drain() noexcept {
  Mail* newest = head_.exchange(nullptr, std::memory_order_acquire);
  Mail* oldest = nullptr;
  while (newest != nullptr) {
    Mail* const older = newest->next;
    newest->next = oldest;
    oldest = newest;
    newest = older;
  }
  while (oldest != nullptr) {
    Mail& mail = *oldest;
    oldest = mail.next;
    mail.deliver(mail);
  }
}

}  // namespace blockloom::iscsi
