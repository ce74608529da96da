#pragma once

#include <atomic>
#include <condition_variable>
#include <mutex>
#include <optional>

#include <doctest/doctest.h>

#include "server/leg/remote_leg.hpp"

/// What tests ask of a leg that a mirror controls.
namespace blockloom::test {

struct Listener final : LinkListener {
  void link_lost(RemoteLeg&, const Error&) noexcept override { ++lost; }
  void link_up(RemoteLeg&, std::uint64_t) noexcept override { ++up; }
  std::atomic<int> lost{0}, up{0};
};

/// Waits for what a callback says. Bounded.
template <class T>
class Answer {
 public:
  void give(T value) {
    const std::lock_guard lock(mutex_);
    value_ = std::move(value);
    given_.notify_all();
  }
  T take() {
    std::unique_lock lock(mutex_);
    REQUIRE(given_.wait_for(lock, std::chrono::seconds(60), [&] { return value_.has_value(); }));
    return std::move(*value_);
  }

 private:
  std::mutex mutex_;
  std::condition_variable given_;
  std::optional<T> value_;
};

inline Proof fence(RemoteLeg& remote, std::uint64_t epoch, FenceScope scope = FenceScope::own) {
  Answer<Proof> answer;
  remote.fence(epoch, scope, Clock::now() + std::chrono::seconds(30),
               [&](const FenceResult& result) { answer.give(result.proof); });
  return answer.take();
}

inline Errc session(RemoteLeg& remote, std::uint64_t epoch) {
  Answer<Errc> answer;
  remote.open_session(epoch, Clock::now() + std::chrono::seconds(30),
                      [&](const Result<void>& result) { answer.give(result.code()); });
  return answer.take();
}

}  // namespace blockloom::test
