#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <string>
#include <vector>

#include "proto/dump/bytes.hpp"
#include "server/base/clock.hpp"
#include "server/base/error.hpp"

namespace blockloom::dump {

/// What a dump will need, as far as that is known before it comes.
struct DumpPlan {
  std::uint64_t expected = 0;  ///< bytes; 0: unknown
  std::uint64_t here = 0;      ///< one that goes on: where what is here ends
  std::uint64_t largest = 0;   ///< no write ends beyond this
  std::uint32_t queue = 64;    ///< writes in one batch
};

/// Which writes a target takes: AIX's DUMPQUERY. The writer cuts and pads to them.
struct DumpLimits {
  std::uint32_t alignment = 1;                     ///< of offsets and lengths; a power of two
  std::uint64_t largest = std::uint64_t{1} << 20;  ///< bytes of one write
  std::uint32_t queue = 64;                        ///< writes in flight
};

/// One write. The bytes are the caller's, and stay until its completion was polled; after a poll
/// that timed out, until abandon().
struct DumpWrite {
  std::uint64_t offset = 0;
  ByteView bytes;
  std::uint32_t tag = 0;  ///< the caller's; comes back with the completion
};

struct DumpCompletion {
  std::uint32_t tag = 0;
  Errc status = Errc::ok;
};

/// Where one dump goes: a file, or a part of a device. The phases of LKCD's and AIX's dump
/// devices, in this order; one thread at a time calls, any thread.
///
///   configure → query → ready → (start → poll)* → finish → release → unconfigure
///
/// Targets only start and complete writes; cutting, deadlines, several targets at once and what
/// becomes of a late one are DumpWriter's.
class DumpTarget {
 public:
  virtual ~DumpTarget() = default;

  /// As messages name it.
  virtual std::string name() const = 0;

  /// Sets everything aside that the dump takes: descriptors, buffers, the first space. Nothing is
  /// allocated after it, so that nothing fails later for want of memory. Errc::no_space if the
  /// expected bytes do not fit.
  virtual Result<void> configure(const DumpPlan& plan) = 0;
  virtual DumpLimits query() const noexcept = 0;

  /// The last look before the first write: what was set aside can be read and written.
  virtual Result<void> ready() = 0;

  /// Makes sure of room up to `end` before a write is acknowledged. Errc::no_space: there is none.
  virtual Result<void> reserve(std::uint64_t end) = 0;

  /// Starts writes within the limits, at most `query().queue` in flight. Does not wait for a
  /// medium that makes it wait; an error means that none of them was started.
  virtual Result<void> start(std::span<const DumpWrite> batch) noexcept = 0;

  /// Takes completions until there is at least one, or the deadline has passed (then 0).
  virtual std::size_t poll(std::span<DumpCompletion> done, TimePoint deadline) noexcept = 0;

  /// After a poll that came to nothing: the writes in flight no longer touch the caller's bytes.
  /// The target takes no more.
  virtual void abandon() noexcept = 0;

  /// What was written is durable. Within the deadline, as far as the medium can be bounded.
  virtual Result<void> sync(TimePoint deadline) = 0;

  /// Reads back what was written, for verifying and for the texts inside a dump; short at the end.
  virtual Result<std::size_t> read(std::uint64_t offset, std::span<std::byte> into) = 0;

  /// The dump is over and has this length: cut, durable, closed for writing.
  virtual Result<void> finish(std::uint64_t length, TimePoint deadline) = 0;

  /// Gives back what was set aside and not used.
  virtual void release() noexcept = 0;
  virtual void unconfigure() noexcept = 0;
};

}  // namespace blockloom::dump
