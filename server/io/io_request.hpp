#pragma once

#include <array>
#include <cstdint>
#include <span>

#include "server/base/clock.hpp"
#include "server/base/error.hpp"
#include "server/base/units.hpp"
#include "server/io/buffer_pool.hpp"
#include "server/leg/io.hpp"

namespace blockloom {

/// The most legs that one client has.
inline constexpr std::size_t max_io_legs = 9;

/// How one region of a request stands (dm-io with timeouts).
enum class RegionState : std::uint8_t {
  pending,
  ok,
  timeout,    ///< its deadline passed; it still runs, and its end is told later
  cancelled,  ///< never sent, or given up by cancel()
  error,
};

/// One leg's part of a request (dm-io's io_region).
struct IoRegion {
  std::uint32_t leg = 0;
  Bytes offset;  ///< in the leg
  Bytes length;  ///< 0 for flush
  /// When the region becomes a TIMEOUT; none: the leg takes as long as it takes.
  TimePoint deadline = TimePoint::max();
};

/// Names a request after it was submitted; safe to use after its end, when it names nothing.
struct IoHandle {
  std::uint32_t index = 0;
  std::uint32_t generation = 0;  ///< 0: no request

  explicit operator bool() const noexcept { return generation != 0; }
  bool operator==(const IoHandle&) const = default;
};

/// What notify is told about one region.
struct IoNotice {
  IoHandle handle;
  std::uint32_t region = 0;  ///< index into the request's regions
  std::uint32_t leg = 0;
  RegionState state = RegionState::pending;  ///< never pending
  Errc status = Errc::ok;
  /// False: the leg still has it, and a second notice comes when that ends (a TIMEOUT, or a
  /// CANCELLED that was already sent); its state is then ok or error.
  bool final = true;
  bool second = false;  ///< this is that second notice
};

/// Runs once for each region, and once more for each that was not final; for one region in that
/// order, for several on several threads. Without locks. May submit and cancel.
using IoNotify = void (*)(const IoNotice& notice, void* context) noexcept;

struct IoRequest {
  Op op = Op::read;
  std::uint8_t flags = 0;  ///< io_flag
  /// At its deadline a region that was not sent yet is not sent any more, and the leg of one that
  /// was sent is asked to give it up, where it can.
  bool cancel_on_timeout = false;
  std::uint8_t shard = 0;             ///< this_thread_shard()
  std::span<const IoRegion> regions;  ///< one at least, a leg at most once; copied

  /// What is read or written. With any deadline it lies in `buffer`, which the request shares
  /// (W2): `data` is inside it, or null for its start. Else it is the submitter's until the end.
  std::byte* data = nullptr;
  IoBufferRef buffer;
  Extents* extents = nullptr;  ///< Op::extents; never with a deadline

  IoNotify notify = nullptr;
  void* context = nullptr;
};

/// The first notice of each region, for what ended inside a call.
struct IoResults {
  std::array<RegionState, max_io_legs> states{};
  std::array<Errc, max_io_legs> status{};
};

}  // namespace blockloom
