#pragma once

#include <atomic>
#include <cstddef>
#include <mutex>

#include "server/base/gate.hpp"
#include "server/device/request.hpp"

namespace blockloom {

/// A range of a device held against every other writer, from Device::hold() to
/// Device::release(): what COMPARE AND WRITE needs. The holder names it in its own requests
/// (Request::hold). It stays in place until release() has returned.
struct RangeHold {
  Bytes offset;
  Bytes length;
  /// Runs once if hold() returned pending, perhaps before it returned, on any thread: the range
  /// is held. Posts, or does little.
  void (*granted)(RangeHold&) noexcept = nullptr;
  void* owner = nullptr;

  // The lock's.
  RangeHold *next = nullptr, *prev = nullptr, *next_granted = nullptr;
  Request* parked = nullptr;  // writers that wait for this hold's end, last first
  bool active = false;
};

/// Keeps the writers of a device out of ranges that somebody holds. Until the first hold it costs
/// a writer one look at a flag; from then on the device's writers are listed while they are out.
///
/// The writers that were on their way at the first hold are not listed: the device's gate counts
/// all writers (IoGate::Mark), and the first hold waits until those have gone. A writer that meets
/// a hold is parked outside the gate, and told to retry when the hold ends, so that a suspend
/// never waits for it. Holds that overlap are granted in the order they came; a writer waits for
/// those that came before it, granted or not.
class RangeLock {
 public:
  /// The gate that writers pass with the mark.
  explicit RangeLock(IoGate& gate);
  ~RangeLock();
  RangeLock(const RangeLock&) = delete;
  RangeLock& operator=(const RangeLock&) = delete;

  /// True: writers are to pass admit().
  bool tracking() const noexcept { return tracking_.load(std::memory_order_seq_cst); }
  /// True: the first hold waits for writers that are not listed.
  bool draining() const noexcept { return tracking() && !drained_.load(std::memory_order_relaxed); }

  /// A writer inside the gate, with the mark, wants to start. True: it is listed, and inside
  /// without the mark. False: it is outside, and parked: its retry runs, perhaps before this has
  /// returned, so that the lock itself may be gone by then.
  bool admit(Request& request, std::size_t shard) noexcept;
  /// A writer that was admitted has ended.
  void ended(Request& request) noexcept;
  /// An unlisted writer has gone, while draining.
  void unlisted_gone() noexcept;

  Submit hold(RangeHold& hold) noexcept;
  void release(RangeHold& hold) noexcept;

 private:
  bool may_start_locked(const RangeHold& hold) noexcept;
  RangeHold* grant_locked() noexcept;

  IoGate& gate_;
  std::atomic<bool> tracking_{false};
  std::atomic<bool> drained_{false};
  std::mutex mutex_;                              // protects what follows
  Request* writers_ = nullptr;                    // those out
  RangeHold *first_ = nullptr, *last_ = nullptr;  // granted or waiting, oldest first
};

}  // namespace blockloom
