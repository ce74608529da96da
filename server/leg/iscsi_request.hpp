#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <list>
#include <vector>

#include "server/base/clock.hpp"
#include "server/base/error.hpp"
#include "server/leg/io.hpp"
#include "server/leg/iscsi_session.hpp"

namespace blockloom {

struct IscsiRequest;

/// A SCSI command of an iSCSI leg: a part of a request, or the leg's own.
struct IscsiCommand : IscsiTask {
  enum class Kind : std::uint8_t {
    transfer,     ///< READ, WRITE
    edge_read,    ///< the block around an unaligned end of a write
    unmap,        ///< UNMAP, or WRITE SAME with UNMAP for a trim
    write_same,   ///< of zeroes
    synchronize,  ///< SYNCHRONIZE CACHE
    lba_status,
    capacity,  ///< the leg's own: has the size changed?
  };

  Kind kind = Kind::transfer;
  IscsiRequest* request = nullptr;
  std::uint64_t at = 0;     ///< bytes of the leg
  std::uint64_t bytes = 0;  ///< that it is for
  unsigned tries = 0;
  TimePoint not_before{};       ///< while it waits to be sent again
  std::uint32_t abort_tag = 0;  ///< of the ABORT TASK that is out for it
  bool inside = false;          ///< the session has it
  std::array<std::byte, 32> parameters;
  IscsiCommand* next = nullptr;
};

/// An Io on its way: which commands it takes, and how they went.
struct IscsiRequest {
  enum class Step : std::uint8_t { edges, main, flush };

  Io* io = nullptr;
  TimePoint deadline = TimePoint::max();
  TimePoint give_up = TimePoint::max();  ///< when the session is dropped for it
  /// The blocks that it touches, in bytes; equal to the Io's range but for unaligned ones.
  std::uint64_t low = 0, high = 0;
  std::uint64_t at = 0;  ///< what has no command yet starts here
  Step step = Step::main;
  bool unaligned = false;
  bool started = false;  ///< it has sent a command, or may
  bool listed = false;   ///< in the list of those with more to send
  bool stop = false;     ///< sends nothing more
  bool expired = false;  ///< its deadline has passed
  bool unsent = false;   ///< a part of it was never sent
  bool unknown = false;  ///< the end of a part is unknown
  bool any_done = false;
  unsigned outstanding = 0;  ///< commands
  Errc status = Errc::ok;
  std::vector<std::byte> spare;  ///< blocks of its own: edges, unaligned reads, LBA status

  IscsiRequest* next_ready = nullptr;
  std::list<IscsiRequest>::iterator self;

  /// One command at a time.
  bool in_turn() const noexcept {
    return io->op == Op::zero || io->op == Op::trim || io->op == Op::extents ||
           (unaligned && io->op == Op::read);
  }
};

}  // namespace blockloom
