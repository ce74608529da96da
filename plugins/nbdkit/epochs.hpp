#pragma once

#include <atomic>
#include <cstdint>
#include <map>
#include <memory>
#include <mutex>

#include "server/base/clock.hpp"
#include "server/base/error.hpp"
#include "server/base/gate.hpp"
#include "server/device/registry.hpp"
#include "server/leg/io.hpp"

namespace blockloom::nbd {

/// A device's epochs, as its NBD clients meet them (server/leg/nbd_epoch.hpp). Any thread.
///
/// Of connections without an epoch, those that only read are left alone; what they would change is
/// refused once the device has an epoch.
class EpochGate {
 public:
  explicit EpochGate(std::uint64_t stored) noexcept : floor_(stored) {}

  /// A request of a connection of that epoch (0: none) comes in. False: its epoch is over.
  bool enter(std::uint64_t epoch, Op op, std::size_t shard) noexcept {
    if (passes_by(epoch, op)) return true;
    if (!gate_.enter(shard)) return false;  // a higher epoch is being opened
    if (epoch >= floor_.load(std::memory_order_seq_cst)) [[likely]]
      return true;
    gate_.exit(shard);
    return false;
  }
  void exit(std::uint64_t epoch, Op op, std::size_t shard) noexcept {
    if (!passes_by(epoch, op)) gate_.exit(shard);
  }

  /// Opens an epoch: bars the requests of lower ones, for good, waits for those that are inside,
  /// and has it stored. When this returns ok nothing of a lower epoch is under way, nor comes: also
  /// not below, on legs with a peer, whose late writes refuse it.
  Result<void> raise(Registry& registry, Device& device, std::uint64_t epoch, TimePoint deadline);

 private:
  static bool passes_by(std::uint64_t epoch, Op op) noexcept {
    return epoch == 0 && op != Op::write && op != Op::trim && op != Op::zero;
  }

  IoGate gate_;
  std::atomic<std::uint64_t> floor_;  // lower epochs are barred
  std::timed_mutex raising_;          // one at a time closes the gate
};

/// The gates of all devices that clients have open.
class EpochGates {
 public:
  std::shared_ptr<EpochGate> of(const Device& device);

 private:
  std::mutex mutex_;
  std::map<std::uint32_t, std::shared_ptr<EpochGate>> by_minor_;
};

}  // namespace blockloom::nbd
