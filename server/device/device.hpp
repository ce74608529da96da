#pragma once

#include <atomic>
#include <cstdint>
#include <functional>
#include <memory>
#include <mutex>
#include <string>
#include <string_view>
#include <vector>

#include "server/base/clock.hpp"
#include "server/base/error.hpp"
#include "server/base/gate.hpp"
#include "server/base/timer_queue.hpp"
#include "server/base/units.hpp"
#include "server/device/range_lock.hpp"
#include "server/device/request.hpp"
#include "server/device/table.hpp"
#include "server/leg/account.hpp"

namespace blockloom {

/// Bounds of a device; the configuration's [limits].
struct DeviceLimits {
  std::size_t queue_requests = 4096;                    ///< while suspended
  Duration queue_timeout = std::chrono::seconds(60);    ///< a queued request's longest wait
  Duration suspend_timeout = std::chrono::seconds(30);  ///< for what is in flight to end
};

struct SuspendOptions {
  bool flush = true;
  Duration timeout{};  ///< 0: the device's suspend_timeout
  Duration lease{};    ///< 0: until resume. Otherwise the live table goes on after this time.
};

/// What a change of tables cost its clients.
struct PauseReport {
  bool swapped = false;
  Duration pause{};  ///< from the gate's closing to its opening
};

/// A snapshot for `info`, `ls` and metrics.
struct DeviceInfo {
  std::string name, uuid, description;
  std::uint32_t minor = 0;  ///< a number of its own, never reused while the process runs
  bool suspended = false, read_only = false, deferred_remove = false;
  bool live_table = false, inactive_table = false;
  std::size_t targets = 0;  ///< of the live table
  Sectors size;
  std::uint32_t open_count = 0, event_number = 0;
  std::size_t queued = 0;
  double lease_left_s = 0;
  std::string failure;  ///< why the saved table could not be loaded at start; empty if it was
  IoTotals totals;
};

/// One leg of a device's live table, for `deps`, `top` and metrics.
struct LegInfo {
  std::string uri;
  std::string device;  ///< for a `dev:` leg
  Bytes size;
  IoTotals totals;
};

/// A virtual block device: a live table that serves, an inactive one that waits (dm-ioctl v4).
/// The registry makes devices, and is the only one that changes them; frontends submit.
///
/// Control calls take the control lock one after the other, and may wait. submit() takes no lock
/// while the device is not suspended.
class Device : public std::enable_shared_from_this<Device> {
 public:
  struct Services {
    TimerQueue* timers = nullptr;  ///< short callbacks: the queue's deadline
    TimerQueue* worker = nullptr;  ///< callbacks that may wait: a lease's end
    std::function<void(Device&, std::string_view kind, std::string detail)> notify;
  };

  Device(std::string name, std::string uuid, std::uint32_t minor, DeviceLimits limits,
         Services services);
  ~Device();

  /// The data path. Any thread. Checks that the request is aligned to 512, inside the device and
  /// allowed; queues it while suspended; hands it to the live table. The caller holds the device
  /// open until the request has ended.
  Submit submit(Request& request) noexcept;

  /// Takes a request back that waits for a resume: true, and it has ended with Errc::cancelled;
  /// neither complete nor retry runs. False: it is not in the queue (any more). Any thread; the
  /// request is in place.
  bool withdraw(Request& request) noexcept;

  /// Errc::ok, or with what every request ends since the device was removed by force, or the
  /// engine stops.
  Errc dead() const noexcept { return dead_.load(std::memory_order_relaxed); }

  /// Keeps all other writers out of a range, whatever frontend they come from, but not those of
  /// a device below this one that somebody writes directly. Any thread; the caller holds the
  /// device open until release() has returned. Waits (pending) for the writers already there.
  Submit hold(RangeHold& hold) noexcept { return ranges_.hold(hold); }
  /// Ends a hold that was granted. Parked writers' retry runs in here.
  void release(RangeHold& hold) noexcept { ranges_.release(hold); }

  Bytes size() const noexcept { return Bytes(size_.load(std::memory_order_relaxed)); }
  bool read_only() const noexcept { return read_only_.load(std::memory_order_relaxed); }
  std::string name() const;
  std::string uuid() const;
  std::uint32_t minor() const noexcept { return minor_; }

  // --- tables; called by the registry -------------------------------------------------------

  /// Puts a table into the inactive slot; the one there before is destroyed.
  void set_inactive(std::shared_ptr<Table> table);
  void clear();

  /// presuspend → new I/O queues → wait for what is in flight → flush → postsuspend, all undone
  /// when a step fails or the deadline passes; the error names the late legs. Suspending a
  /// suspended device renews its lease.
  Result<void> suspend(const SuspendOptions& options);

  /// With an inactive table: suspend if needed, preresume, swap, resume, release the queue in
  /// order, destroy the old table. If preresume fails the old table goes on serving and the new
  /// one stays in the inactive slot.
  Result<PauseReport> resume(const SuspendOptions& options = {});

  // The steps of resume(), for a swap of several devices as one. The caller holds hold_control()
  // of each.
  std::unique_lock<std::mutex> hold_control() const { return std::unique_lock(control_); }
  /// Flushes while I/O still flows, so that the flush under the suspension has little left.
  Result<void> settle_held(const SuspendOptions& options);
  Result<void> suspend_held(const SuspendOptions& options);
  Result<void> preresume_held();       ///< of the inactive table
  std::shared_ptr<Table> swap_held();  ///< inactive becomes live; gives back the old one
  Result<void> go_on_held();           ///< resume hooks, open the gate, release the queue
  std::shared_ptr<Table> exchange_inactive_held(std::shared_ptr<Table> table);
  bool suspended_held() const noexcept { return suspended_; }
  TimePoint closed_at_held() const noexcept { return closed_at_; }

  /// Fails what waits and all that comes later with this status, releases what targets and legs
  /// hold back, and waits (bounded) for what is in flight. True when nothing is left.
  bool kill(Errc status, Duration wait);

  /// The tables as they are now, kept alive by the pointer; null without one. Any thread: does
  /// not wait for a suspend that waits.
  std::shared_ptr<Table> live_table() const;
  std::shared_ptr<Table> inactive_table() const;

  /// After kill() returned true: gives back both tables.
  std::vector<std::shared_ptr<Table>> drop_tables();

  /// Nobody is inside; after kill() it stays so.
  bool idle() const noexcept { return gate_.inside() == 0; }

  /// Sends a message to the live target that holds the sector, or with "leg N TEXT…" to that
  /// target's leg N (from 0). Does not wait for a suspend: a message may be what lets it end.
  Result<std::string> message(Sectors sector, std::span<const std::string> words);

  // --- names and books; called by the registry ---------------------------------------------

  void set_name(std::string name);
  Result<void> set_uuid(std::string uuid);  ///< once
  void set_description(std::string text);
  /// Why one user has the device for itself; empty: nobody has.
  std::string claim() const;
  void set_claim(std::string why);
  void set_deferred_remove(bool on) noexcept { deferred_remove_ = on; }
  bool deferred_remove() const noexcept { return deferred_remove_; }
  /// The highest epoch that clients fenced this device with; 0: none (mirror protocol, fences).
  std::uint64_t epoch() const noexcept { return epoch_.load(); }
  void set_epoch(std::uint64_t epoch) noexcept { epoch_ = epoch; }
  /// Remembers a table that could not be loaded at start, so that it is neither lost nor saved
  /// away; empty texts: it is loaded now.
  void set_failure(std::string saved_table, bool read_only, std::string why);

  std::uint32_t open_count() const noexcept { return open_count_.load(); }
  void opened() noexcept { ++open_count_; }
  std::uint32_t closed() noexcept { return --open_count_; }  ///< what is left

  std::uint32_t event_number() const noexcept { return event_number_.load(); }
  /// Counts an event and tells the registry's listeners.
  void raise(std::string_view kind, std::string detail);

  DeviceInfo info() const;
  std::vector<LegInfo> leg_infos() const;          ///< of the live table
  std::vector<std::string> lower_devices() const;  ///< that live and inactive tables lead to
  std::string table_text(bool inactive) const;     ///< dmsetup table; empty without one
  std::string status_text(bool inactive) const;
  std::string source(bool inactive) const;  ///< what to save
  std::string saved_table() const;          ///< of set_failure
  bool saved_read_only() const;

 private:
  Submit queue_or_refuse(Request& request) noexcept;
  void open_gate() noexcept;
  void fail_queue(Errc status) noexcept;
  bool arm_queue_timer_locked() noexcept;
  void unlink_locked(Request& request) noexcept;
  Request* take_queue_locked() noexcept;
  void expire_queue();
  void arm_lease(Duration lease);
  void lease_ended(std::uint64_t generation);
  Result<void> flush_live(TimePoint deadline);
  Duration wait_of(const SuspendOptions& options) const noexcept;
  Errc check(const Request& request) const noexcept;
  Submit finished(Request& request) noexcept;
  static void table_ended(Request& request) noexcept;

  const std::uint32_t minor_;
  const DeviceLimits limits_;
  const Services services_;

  // Read by every request.
  IoGate gate_;  // marks those that write
  RangeLock ranges_{gate_};
  std::atomic<std::uint64_t> size_{0};
  std::atomic<bool> read_only_{false};
  std::atomic<Errc> dead_{Errc::ok};
  std::atomic<Errc> owed_flush_{Errc::ok};  // a flush of our own failed: the next client hears it
  IoAccount account_;  // counts ends only: what is in flight is inside the gate

  // The control lock protects what follows. The tables are also read inside the gate (the live
  // one), and under the names lock, which every change of the pointers takes as well.
  mutable std::mutex control_;
  std::shared_ptr<Table> live_;
  std::shared_ptr<Table> inactive_;
  std::atomic<bool> suspended_{false};
  bool live_prepared_ = false;  // preresume ran, resume did not
  TimePoint closed_at_{};
  std::atomic<TimePoint> lease_end_{};
  TimerId lease_timer_ = 0;
  std::uint64_t lease_generation_ = 0;

  // The queue lock; taken inside the control lock, never the other way round.
  mutable std::mutex queue_mutex_;
  Request* queue_head_ = nullptr;
  Request* queue_tail_ = nullptr;
  std::size_t queued_ = 0;
  TimerId queue_timer_ = 0;

  // The names lock; innermost. Held for a copy, never across a wait.
  mutable std::mutex names_;
  std::string name_, uuid_, description_, saved_table_, failure_, claim_;
  bool saved_read_only_ = false;

  std::atomic<std::uint32_t> open_count_{0};
  std::atomic<std::uint32_t> event_number_{0};
  std::atomic<bool> deferred_remove_{false};
  std::atomic<std::uint64_t> epoch_{0};
};

}  // namespace blockloom
