#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "server/base/clock.hpp"
#include "server/base/error.hpp"
#include "server/base/units.hpp"
#include "server/io/buffer_pool.hpp"
#include "server/io/io_request.hpp"
#include "server/leg/leg.hpp"

namespace blockloom {

/// dm-io with timeouts and cancellation: sends one request to several legs at once, tells how each
/// went, and again when what was late has ended.
///
/// How a region travels: to a leg that answers inside the call, without a deadline, in the
/// caller's thread; to a leg with a lane through that; to all others from the caller's thread too,
/// the completion coming later. Legs with lanes are handed theirs first, then the asynchronous
/// ones, last those that run here.
///
/// Everything is allocated when the client is made, for `requests` requests at a time; more are
/// tried, up to `most_requests`. Any thread, but for what says otherwise.
class IoClient {
 public:
  struct Options {
    std::string name = "io";            ///< of the lanes' threads: "NAME-lane0"
    std::size_t requests = 64;          ///< set aside
    std::size_t most_requests = 16384;  ///< at a time, late ones among them
    IoBufferPool::Options buffers = {};
    /// The owner keeps its own book of what a leg gave up with end_unknown: it is told as a final
    /// TIMEOUT, and nothing waits for fenced().
    bool owner_keeps_unknown = false;
    void* owner = nullptr;
    /// Z4: the bytes of late writes on a leg have passed its bound: fence it. Once each time the
    /// bound is crossed; on any thread, without locks.
    void (*late_limit)(void* owner, std::uint32_t leg) noexcept = nullptr;
  };
  struct LegOptions {
    bool lane = false;  ///< submit() may block longer than a caller can wait
    unsigned lane_threads = 4;
    Bytes late_limit{64 << 20};
  };

  static Result<std::unique_ptr<IoClient>> create(const Options& options);
  /// As close() with no patience; what is late runs on, and tells nobody.
  ~IoClient();
  IoClient(const IoClient&) = delete;
  IoClient& operator=(const IoClient&) = delete;

  /// After the process has forked, before the first request with a deadline.
  Result<void> start();

  /// Puts a leg in a place (0 to 8), or empties it. What is still out keeps the leg that was there.
  /// While nothing is submitted.
  void set_leg(std::uint32_t place, std::shared_ptr<Leg> leg, const LegOptions& options);
  const std::shared_ptr<Leg>& leg(std::uint32_t place) const noexcept;

  /// Done: every region has ended inside the call, as `results` says, and notify does not run for
  /// them. Pending: notify runs for each region, perhaps before this returns. A request that
  /// cannot be taken is done with every region cancelled: Errc::limit (too many at a time),
  /// Errc::shutdown (closed), Errc::invalid. The handle is valid before the first notice.
  Submit submit(const IoRequest& request, IoResults& results, IoHandle* handle = nullptr) noexcept;

  /// The synchronous form: waits until each region has ended or met its deadline. What is late
  /// then is told to nobody.
  IoResults run(IoRequest request) noexcept;

  /// Ends every region of the request that is still pending as CANCELLED: at once and for good
  /// where it was not sent, else not final (Z3). False: the handle names nothing any more.
  bool cancel(IoHandle handle) noexcept;
  /// The same for all that is pending on a leg; how many regions that were.
  std::size_t cancel_leg(std::uint32_t place) noexcept;

  /// A leg was fenced: what is out on it can no longer land. Each of its late regions is told its
  /// second notice, an error with this status, now; what the leg itself says later is dropped.
  /// Pending regions end with that error too. How many there were.
  std::size_t fenced(std::uint32_t place, Errc status) noexcept;

  /// The gate: from here on nothing is taken. True once no region is pending, late ones aside;
  /// false when the deadline passed first, and out() names what it waits for.
  bool close(TimePoint deadline) noexcept;
  void open() noexcept;
  /// True once nothing is out on a leg that did not end inside its call, late ones included.
  bool wait_quiet(TimePoint deadline) noexcept;

  /// What is out on the legs, and since when: for "cannot be suspended: …" and for people.
  struct Out {
    std::string leg;
    Op op = Op::read;
    Bytes offset, length;
    Duration age{};
    RegionState state = RegionState::pending;
  };
  std::vector<Out> out(std::size_t most = 64) const;

  std::uint64_t pending(std::uint32_t place) const noexcept;  ///< regions, not late ones
  std::uint64_t late(std::uint32_t place) const noexcept;     ///< regions
  Bytes late_bytes(std::uint32_t place) const noexcept;       ///< of writes
  IoBufferPool& buffers() noexcept;

 private:
  struct Core;
  struct Slot;
  struct Part;
  struct Place;
  IoClient(std::shared_ptr<Core> core, std::shared_ptr<class DeadlineWheel> wheel);

  const std::shared_ptr<DeadlineWheel> wheel_;  // outlives every timer that is armed
  const std::shared_ptr<Core> core_;            // what is late lives on in it
};

}  // namespace blockloom
