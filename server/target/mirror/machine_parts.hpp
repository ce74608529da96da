#pragma once

#include <array>
#include <bit>
#include <cstdint>
#include <vector>

#include "server/target/mirror/list.hpp"
#include "server/target/mirror/region_log.hpp"
#include "server/target/mirror/types.hpp"

/// What the machine is made of: regions, ops, legs, requests, copies.
namespace blockloom::mirror {

using Ticket = RegionLog::Ticket;

constexpr unsigned first_leg(LegMask mask) {
  return static_cast<unsigned>(std::countr_zero(mask));
}
constexpr unsigned count(LegMask mask) {
  return static_cast<unsigned>(std::popcount(mask));
}

/// What the machine knows of a region. All zero: clean, in sync, idle.
struct Region {
  LegMask stale = 0;     ///< may not be read; in RESYNC where `copying` has the leg too
  LegMask copying = 0;   ///< a copy is under way: writes go there too
  LegMask clearing = 0;  ///< copied and flushed; the log is being told
  LegMask zombies = 0;
  std::uint32_t users = 0;  ///< holders of locks, and those who wait for one
  bool dirty = false;
  bool dirty_pending = false;  ///< set since `mark` was durable last; likewise:
  bool stale_pending = false;
  std::uint64_t stamp = 0;  ///< the first flush that covers its newest write
  Ticket mark = 0;          ///< the commit that makes all this durable
};

enum class OpState : std::uint8_t {
  free,
  pending,    ///< its request waits for it
  late,       ///< so too, past its time, on the last leg: up to the hard limit (W5)
  zombie,     ///< a write whose end is unknown, and whose request does not wait
  abandoned,  ///< a read or flush that nobody waits for
  won,        ///< a read that ended ok, whose buffer is the answer
};

struct Op {
  Slot slot = nil;  ///< nil: no request cares
  std::uint32_t serial = 0;
  OpState state = OpState::free;
  Kind kind = Kind::read;
  std::uint8_t list = 0xff;  ///< in which of Leg::lists
  std::uint64_t offset = 0;
  std::uint64_t length = 0;
  Time deadline = never;
  Link link;
};
using OpList = List<Op, &Op::link>;

struct Leg {
  LegConfig config;
  LegState state = LegState::absent;
  bool held = false;      ///< a person failed it
  bool removing = false;  ///< absent once the record says so, and its fence is over
  bool leaving = false;   ///< the second step of that: its role
  Ticket leaves_at = 0;   ///< the commit of the step
  bool joining = false;   ///< added; becomes a member
  Ticket joins_at = 0;    ///< when its STALE bits are durable
  Ticket fence_at = 0;    ///< the epoch is durable then, and `fence` goes out
  bool fence_out = false;
  bool vouched = false;         ///< a person is the proof of the fence under way
  bool kept_unflushed = false;  ///< down, with unflushed data that no other leg holds (S1)
  std::uint64_t epoch = 0;
  std::uint64_t flushed = 0;  ///< newest flush that ended ok here
  Time suspect_until = never;
  Time retry_at = never;
  Time up_since = 0;
  Time backoff = 0;
  std::uint32_t outstanding = 0;
  std::uint32_t zombies = 0;
  std::uint64_t zombie_bytes = 0;
  std::uint64_t errors = 0;
  std::uint64_t timeouts = 0;
  std::uint64_t fences = 0;
  Errc last_error = Errc::ok;
  std::vector<Op> ops;
  std::vector<std::uint16_t> free_ops;
  /// By deadline, which within one list grows with the time of sending: writes and flushes, reads;
  /// and the same past their time, up to the hard limit.
  std::array<OpList, 4> lists;
};

enum class Step : std::uint8_t {
  free,
  blocked,   ///< waits for its interval (W1)
  marking,   ///< waits until `dirty` is durable (W3)
  active,    ///< ops are out
  settling,  ///< waits until STALE is durable (W6, R3)
  waiting,   ///< for a leg (on_all_failed=queue)
  locked,    ///< answered; an op whose end is unknown holds the interval (W5)
};

enum class Use : std::uint8_t { user, copy, scrub, flush };

struct Request {
  Step step = Step::free;
  Use use = Use::user;
  Kind kind = Kind::read;
  std::uint8_t flags = 0;
  bool locks = false;   ///< is in a bucket's list
  bool queued = false;  ///< is on work_
  bool hedging = false;
  bool hedged = false;
  bool timed = false;  ///< is in blocked_, log_waiters_ or leg_waiters_
  bool lost = false;   ///< an op's session went away under it
  Errc errc = Errc::ok;
  LegMask pending = 0;  ///< ops waited for
  LegMask ok = 0;
  LegMask tried = 0;    ///< reads: not again
  LegMask locking = 0;  ///< zombies that hold the interval for it
  std::uint32_t blockers = 0;
  std::array<std::uint16_t, max_legs> op{};
  std::uint32_t serial = 0;  ///< another one each time that ops are sent
  OpId winner;
  std::uint64_t offset = 0;
  std::uint64_t length = 0;
  std::uint64_t region = 0;
  std::uint64_t number = 0;  ///< of a flush
  Time deadline = never;     ///< while it waits for the log or a leg; 0: the next tick sets it
  Time leg_deadline = 0;     ///< for a leg, over all its tries; 0: did not wait yet
  Time hedge_at = never;
  Link lock_link;
  Link wait_link;
  Link hedge_link;

  bool writes() const noexcept { return kind != Kind::read; }
};
using LockList = List<Request, &Request::lock_link>;
using WaitList = List<Request, &Request::wait_link>;
using HedgeList = List<Request, &Request::hedge_link>;

/// One region's copy (the request of the same index after max_requests carries its chunks).
struct Copy {
  bool active = false;
  bool writing = false;
  std::uint64_t region = 0;
  std::uint64_t next = 0;  ///< offset of the next chunk
  LegMask targets = 0;
  unsigned source = 0;
  Time began = 0;
  Time start_at = 0;  ///< of the next chunk, as the pace allows
};

/// Copied whole; waits for flushes and then for the log (C4).
struct Copied {
  std::uint64_t region = 0;
  LegMask legs = 0;
  bool clearing = false;
  std::uint64_t stamp = 0;
  Ticket ticket = 0;
  Time since = 0;
};

}  // namespace blockloom::mirror
