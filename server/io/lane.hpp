#pragma once

#include <memory>
#include <string>

#include "server/base/clock.hpp"
#include "server/leg/leg.hpp"

namespace blockloom {

/// Carries I/O to a leg whose submit() may block for long (a file on a disk that hangs), on threads
/// of its own: the submitter never waits. One thread drains the queue as long as the leg answers
/// quickly, so that a wake-up serves many requests; when it blocks, more threads join, up to a
/// bound. Threads start with the first request. Any thread.
class Lane {
 public:
  /// A request in the lane; belongs to the submitter, and lives until it has ended.
  struct Item {
    Io* io = nullptr;
    /// Runs on a lane's thread when submit() ended inside the call (Submit::done).
    void (*done)(Item& item) noexcept = nullptr;

   private:
    friend class Lane;
    Item* next = nullptr;
    Item* previous = nullptr;
    bool queued = false;
  };

  Lane(std::string thread_name, std::shared_ptr<Leg> leg, unsigned most_threads);
  /// Joins the threads; those that are stuck in the leg are left to themselves, and what they
  /// need lives as long as they do.
  ~Lane();
  Lane(const Lane&) = delete;
  Lane& operator=(const Lane&) = delete;

  /// False: there is no thread to carry it and none can be started; nothing happened.
  bool push(Item& item) noexcept;

  /// True: it had not been sent, and is the caller's again. False: it was sent.
  bool take_back(Item& item) noexcept;

 private:
  struct State;
  const std::shared_ptr<State> state_;
};

}  // namespace blockloom
