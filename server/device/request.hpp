#pragma once

#include <cstddef>
#include <cstdint>

#include "server/leg/io.hpp"

namespace blockloom {

class Device;
struct RangeHold;

/// One request of a frontend to a device. The frontend owns it, with the buffer, from submit()
/// until it has ended; it holds the device open that long.
struct Request {
  Op op = Op::read;
  std::uint8_t flags = 0;  ///< io_flag
  Errc status = Errc::ok;
  Bytes offset;
  Bytes length;                ///< 0 for flush
  std::byte* data = nullptr;   ///< read, write
  Extents* extents = nullptr;  ///< Op::extents

  /// Runs exactly once if submit() returned pending, perhaps before it returned, on any thread.
  void (*complete)(Request&) noexcept = nullptr;

  /// The device was suspended, and now goes on: hand the request to submit() again, soon, on
  /// whatever thread should carry it. Runs at most once per Submit::pending, instead of
  /// complete; on the resuming thread, so it only wakes or posts. A write that met a held range is
  /// told so when that is released.
  void (*retry)(Request&) noexcept = nullptr;

  void* owner = nullptr;  ///< the frontend's

  /// A write of the one who holds its range (Device::hold); null: of anybody.
  const RangeHold* hold = nullptr;

  // The device's, while it has the request.
  void (*table_ended)(Request&) noexcept = nullptr;  ///< what the table calls after pending
  std::uint8_t shard = 0;
  std::uint64_t start_ns = 0;
  std::uint64_t queued_ns = 0;  ///< since when it waits for resume; kept over retries
  Device* device = nullptr;
  Request* next_queued = nullptr;
  Request* prev_queued = nullptr;
  bool listed = false;  // by the range lock
  bool queued = false;  // until the device is resumed
  Io io;                ///< the only piece of a request that needs no splitting
};

}  // namespace blockloom
