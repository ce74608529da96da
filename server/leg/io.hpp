#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

#include "server/base/error.hpp"
#include "server/base/units.hpp"

namespace blockloom {

class Leg;

enum class Op : std::uint8_t { read, write, flush, trim, zero, cache, extents };

namespace io_flag {
/// write, trim, zero: durable before it completes.
inline constexpr std::uint8_t fua = 1;
/// zero: the leg may leave a hole.
inline constexpr std::uint8_t may_trim = 2;
/// zero: fail with Errc::not_supported at once where it would be no faster than writing.
inline constexpr std::uint8_t fast = 4;
/// extents: one extent is enough.
inline constexpr std::uint8_t one_extent = 8;
}  // namespace io_flag

/// How submit ended. `done`: the status is set and the completion will not run. `pending`: the
/// completion runs exactly once, perhaps before submit returned, on any thread; the submitter
/// does not touch the Io again until then. What a status says of the peer: remote_leg.hpp.
enum class Submit : std::uint8_t { done, pending };

/// One run of blocks of one kind.
struct Extent {
  Bytes length;
  bool hole = false;  ///< not allocated
  bool zero = false;  ///< reads as zeroes

  bool operator==(const Extent&) const = default;
};

/// The answer to Op::extents: consecutive runs from the start of the range asked for. Adjacent
/// equal runs are merged. Bounded: a full list refuses more, and a shorter answer is legal, but
/// it covers at least the first block.
class Extents {
 public:
  explicit Extents(std::size_t limit = 4096) : limit_(limit) {}

  /// False when the list is full and nothing was added.
  bool add(Extent extent);
  const std::vector<Extent>& list() const noexcept { return list_; }
  Bytes covered() const noexcept { return covered_; }
  bool full() const noexcept { return list_.size() >= limit_; }
  void clear() noexcept {
    list_.clear();
    covered_ = Bytes(0);
  }

 private:
  std::size_t limit_;
  std::vector<Extent> list_;
  Bytes covered_;
};

/// One piece of I/O on its way through a target to a leg. Made by the table, which keeps offset
/// and length inside the target; the target's map() rewrites them to the leg's. Multiples of 512.
struct Io {
  Op op = Op::read;
  std::uint8_t flags = 0;  ///< io_flag
  Errc status = Errc::ok;
  std::uint8_t shard = 0;      ///< of the leg's counters: the submitter's this_thread_shard()
  std::uint32_t copy = 0;      ///< which of the target's copies of a flush, trim or zero this is
  Bytes offset;                ///< before map(): from the target's start; after: from the leg's
  Bytes length;                ///< 0 for flush
  std::byte* data = nullptr;   ///< read, write: owned by the submitter until completion
  Extents* extents = nullptr;  ///< Op::extents: the leg appends
  Leg* leg = nullptr;          ///< set by map(), and by Leg::submit for its accounting
  std::uint64_t start_ns = 0;  ///< 0 when this request is not timed; else the leg sets it

  /// Runs only after Submit::pending, with status set. Never throws; may free the Io.
  void (*complete)(Io&) noexcept = nullptr;
  void* owner = nullptr;  ///< for complete

  bool has(std::uint8_t flag) const noexcept { return (flags & flag) != 0; }
  bool modifies() const noexcept { return op == Op::write || op == Op::trim || op == Op::zero; }
  Submit finish_inline(Errc result) noexcept {
    status = result;
    return Submit::done;
  }
};

}  // namespace blockloom
