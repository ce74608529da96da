#pragma once

#include <array>
#include <condition_variable>
#include <cstdint>
#include <memory>
#include <mutex>
#include <string>
#include <thread>

#include "server/base/clock.hpp"
#include "server/base/error.hpp"

namespace blockloom {

/// The one source of time for all deadlines: a wheel of coarse slots with one thread. Arming and
/// disarming take a short lock and never allocate; the thread sleeps until the next slot that
/// holds something, so deadlines that are never reached cost no wake-ups. Any thread, also from a
/// callback, but for stop() and the destructor.
class DeadlineWheel {
 public:
  static constexpr Duration tick = std::chrono::milliseconds(2);

  /// What waits for a time; a member of whoever waits, and not moved while it is armed.
  struct Node {
    /// Runs on the wheel's thread, at most a tick and a scheduling late, without locks.
    void (*fire)(Node& node) noexcept = nullptr;
    void* owner = nullptr;

   private:
    friend class DeadlineWheel;
    Node* next = nullptr;
    Node* previous = nullptr;
    std::uint64_t due = 0;  // in ticks
    bool armed = false;
  };

  explicit DeadlineWheel(std::string thread_name);
  ~DeadlineWheel();
  DeadlineWheel(const DeadlineWheel&) = delete;
  DeadlineWheel& operator=(const DeadlineWheel&) = delete;

  /// One wheel for the whole process, while anybody holds it.
  static std::shared_ptr<DeadlineWheel> shared();

  /// Starts the thread, if it does not run: after the process has forked.
  Result<void> start();

  /// The node is not armed. Nothing fires before start().
  void arm(Node& node, TimePoint when) noexcept;

  /// True: the node will not fire. False: it was not armed, or fires now.
  bool disarm(Node& node) noexcept;

  /// Joins the thread; what is armed stays so and does not fire.
  void stop() noexcept;

 private:
  static constexpr std::size_t slots = 4096;  // a turn takes 8 s
  static constexpr std::uint64_t never = ~std::uint64_t{0};

  static std::uint64_t tick_of(TimePoint when) noexcept;
  void run() noexcept;
  void unlink_locked(Node& node) noexcept;
  std::uint64_t next_slot_locked(std::uint64_t from) const noexcept;
  Node* take_due_locked(std::uint64_t now) noexcept;

  const std::string thread_name_;
  std::mutex mutex_;  // protects what follows
  std::condition_variable changed_;
  std::array<Node*, slots> heads_{};
  std::array<std::uint64_t, slots / 64> occupied_{};  // a bit a slot
  std::uint64_t done_;                                // the last tick whose slot was looked at
  std::uint64_t wake_ = never;                        // when the thread will look again
  bool stopping_ = false;

  std::mutex life_;  // protects thread_
  std::thread thread_;
};

}  // namespace blockloom
