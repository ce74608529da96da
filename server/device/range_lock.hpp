#pragma once

#include <atomic>
#include <cstdint>
#include <functional>
#include <mutex>

#include "server/device/request.hpp"

namespace blockloom {

/// A range of a device held against every other writer, from Device::hold() to
/// Device::release(): what COMPARE AND WRITE needs. The holder names it in its own requests
/// (Request::hold). In place, and the holder's, until release() has returned.
struct RangeHold {
  Bytes offset;
  Bytes length;
  /// Runs once if hold() returned pending, perhaps before it returned, on any thread: the range
  /// is held. Posts, or does little.
  void (*granted)(RangeHold&) noexcept = nullptr;
  void* owner = nullptr;

  // The lock's.
  RangeHold *next = nullptr, *prev = nullptr;
  Request* parked = nullptr;  // writers that wait for this hold's end
  bool active = false;
};

/// Keeps the writers of a device out of ranges that somebody holds. Until the first hold it costs
/// a writer one look at a flag; from then on the device's writers are listed while they are out.
///
/// The writers that were on their way at the first hold are not listed: the owner counts all
/// writers (IoGate's second count), and the first hold waits until those have gone. A writer that
/// meets a hold is parked outside the device, and told to retry when the hold ends, so that a
/// suspend never waits for it.
class RangeLock {
 public:
  /// `unlisted` counts the writers inside that admit() has not seen.
  explicit RangeLock(std::function<std::uint64_t()> unlisted) : unlisted_(std::move(unlisted)) {}

  /// True: writers are to pass admit().
  bool tracking() const noexcept { return tracking_.load(std::memory_order_seq_cst); }

  /// A writer, no longer counted as unlisted, wants to start. False: it is parked, and its retry
  /// will run.
  bool admit(Request& request) noexcept;
  /// A writer that was admitted has ended.
  void ended(Request& request) noexcept;
  /// An unlisted writer has gone.
  void unlisted_gone() noexcept;

  Submit hold(RangeHold& hold) noexcept;
  void release(RangeHold& hold) noexcept;

 private:
  RangeHold* grantable_locked() noexcept;
  void grant(std::unique_lock<std::mutex>& lock) noexcept;

  const std::function<std::uint64_t()> unlisted_;
  std::atomic<bool> tracking_{false};
  std::atomic<bool> drained_{false};  // no unlisted writer is left
  std::mutex mutex_;                  // protects what follows
  Request* writers_ = nullptr;
  RangeHold *first_ = nullptr, *last_ = nullptr;  // active or waiting, oldest first
};

}  // namespace blockloom
