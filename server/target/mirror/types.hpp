#pragma once

#include <array>
#include <cstdint>
#include <vector>

#include "server/base/error.hpp"

/// What goes into the mirror's state machine and what comes out of it. The rules W1 to B3 and the
/// invariants I1 to I10 that comments cite are those of docs/mirror-design.md.
namespace blockloom::mirror {

inline constexpr unsigned max_legs = 9;

/// One bit per leg, bit 0 is the first leg of the table line.
using LegMask = std::uint16_t;
constexpr LegMask leg_bit(unsigned leg) {
  return static_cast<LegMask>(1U << leg);
}

/// Nanoseconds of any monotonic clock; the machine only compares and adds. 0 in an event means
/// "not later than the last one": a caller without deadlines need not read its clock for requests.
/// The ends of the machine's own ops, commits and everything rare carry the time: the resync's pace
/// and progress live by it.
using Time = std::uint64_t;
inline constexpr Time never = ~Time{0};
inline constexpr Time millisecond = 1'000'000;
inline constexpr Time second = 1'000'000'000;

/// Names a request from submit until the action `answer` (or `free_slot`) gives it back.
/// 0 ≤ slot < Config::max_requests: the caller's, from a pool of its own. The slots after those,
/// below State::slots(), are the machine's: resync, scrub and its own flushes.
using Slot = std::uint32_t;

/// One leg's part of a request, from `send` until `op_ended`. `index` is below State::leg_ops()
/// and belongs to that leg, so that a caller can keep an array of op contexts a leg; `serial`
/// tells a late reply from the index's next user.
struct OpId {
  std::uint32_t serial = 0;
  std::uint16_t index = 0;
  std::uint8_t leg = 0;
  bool operator==(const OpId&) const = default;
};

enum class Kind : std::uint8_t { read, write, trim, zero, flush };

/// The end of one op, as the leg tells it.
enum class OpEnd : std::uint8_t {
  ok,
  error,      ///< the leg answered that it failed; it does not run any more
  cancelled,  ///< proven never to land: it was not sent, or the leg proved that it gave it up
  unknown,    ///< its session is gone: it may still land, until a fence's proof (H4, S1)
};

enum class ReadPolicy : std::uint8_t { least_outstanding, preferred, round_robin };
/// When no leg can serve a request, and when the last leg fails a write. `queue`: a bounded pause,
/// until a leg is (or that one was) opened again.
enum class OnAllFailed : std::uint8_t { error, queue };

struct LegConfig {
  bool present = true;            ///< false: the place is empty (removed, or for a leg added later)
  Time timeout = 0;               ///< of write, trim, zero, flush; 0: never, the leg is not bounded
  Time read_timeout = 0;          ///< 0: as timeout
  Time fence_delay = 2 * second;  ///< SUSPECT that long for late replies, then FENCING
  std::uint64_t zombie_cap = 64U << 20;  ///< bytes; above it SUSPECT ends at once (Z4)
};

struct Config {
  std::uint64_t size = 0;            ///< bytes of the device; a multiple of 512
  std::uint64_t region_size = 0;     ///< bytes; a power of two from 64 KiB; of the log as well
  std::vector<LegConfig> legs;       ///< 1 to max_legs
  std::uint32_t max_requests = 256;  ///< of the caller, at most 65000
  unsigned min_acks = 1;
  bool record_proven = true;  ///< newest_record().proven: else only `force` starts it (B3)
  ReadPolicy read_policy = ReadPolicy::least_outstanding;
  unsigned preferred = 0;
  Time hedge = 0;  ///< a second read on another leg after that long; 0: none
  OnAllFailed on_all_failed = OnAllFailed::error;
  std::uint32_t queue_limit = 256;      ///< requests that wait for a leg
  Time queue_timeout = 60 * second;     ///< and how long each does at most
  Time log_timeout = 16 * second;       ///< how long a request waits for the log at most
  Time clean_delay = 5 * second;        ///< F1; between one and two of these without a write
  Time assemble_timeout = 10 * second;  ///< how long a start waits for legs that B3 can spare
  Time reopen_min = 1 * second;  ///< first pause before a failed leg is opened again; doubles
  Time reopen_max = 60 * second;
  std::uint32_t copy_chunk = 512U << 10;     ///< bytes of one copy op, at most region_size (C2)
  unsigned copies = 2;                       ///< regions that are copied at the same time, 1 to 8
  std::uint64_t resync_rate = 0;             ///< bytes a second at most; 0: no limit
  std::uint64_t resync_min_rate = 1U << 20;  ///< what foreground I/O leaves it at least
};

/// Leg's states. Z: has zombies, perhaps.
enum class LegState : std::uint8_t {
  absent,         ///< no leg here, or REMOVED
  up,             ///< serves; may have STALE regions
  suspect,        ///< Z. An op timed out; its session lives, late replies may still come
  fencing,        ///< Z. Its session is being ended and proof sought that nothing lands any more
  down_fenced,    ///< proof is there; waits to be opened (or for a person, after `fail`)
  opening,        ///< proof is there; `open` is out
  down_unfenced,  ///< Z. No proof can be had: until a person vouches, or it is replaced
};

enum class FenceEnd : std::uint8_t {
  proof,  ///< nothing sent before can land any more
  retry,  ///< not now (the server is away): the machine asks again, after a pause
  none,   ///< this leg cannot give one (S2)
};

enum class Scrub : std::uint8_t { check, repair };

/// An event. Make it with the functions; fields not named there are ignored.
struct Event {
  enum class Type : std::uint8_t {
    start,
    submit,
    all_ok,
    op_ended,
    compared,
    cancel,
    tick,
    log_committed,
    leg_lost,
    fence_ended,
    opened,
    fail_leg,
    readd_leg,
    remove_leg,
    add_leg,
    vouch_leg,
    pause_resync,
    resume_resync,
    set_resync_rate,
    start_scrub,
    stop_scrub,
    suspend,
    resume,
    stop,
  };

  Type type = Type::tick;
  Kind kind = Kind::read;
  std::uint8_t leg = 0;
  std::uint8_t flags = 0;  ///< passed through to every send of the request
  OpEnd end = OpEnd::ok;
  FenceEnd fence = FenceEnd::proof;
  Scrub scrub = Scrub::check;
  bool ok = true;
  Errc errc = Errc::ok;
  LegMask mask = 0;
  Slot slot = 0;
  OpId op;
  std::uint64_t offset = 0;
  std::uint64_t length = 0;
  Time now = 0;

  /// The first event: B1 to B3, then Action::started. `force`: serve even if the record cannot
  /// prove that the legs that are there hold everything.
  static Event start(Time now, bool force = false) {
    Event e = of(Type::start, now);
    e.ok = force;
    return e;
  }
  /// A request. It lies inside one region (the caller splits; Target::chunk() does for reads and
  /// writes) and is a multiple of 512; a flush has no range. Not while suspended. The slot's
  /// buffer belongs to the caller, who keeps it for each op that reads it (W2).
  static Event submit(Time now, Slot slot, Kind kind, std::uint64_t offset, std::uint64_t length,
                      std::uint8_t flags = 0) {
    Event e = of(Type::submit, now);
    e.slot = slot, e.kind = kind, e.offset = offset, e.length = length, e.flags = flags;
    return e;
  }
  /// Every op that was sent for this slot in one visit ended ok: the short form for legs that are
  /// done in the caller's thread. Same as op_ended(ok) for each. `serial` is the sends' `value`:
  /// the slot may have been answered, and given to another request, meanwhile. Not for reads
  /// where Config::hedge is set.
  static Event all_ok(Time now, Slot slot, std::uint64_t serial) {
    Event e = of(Type::all_ok, now);
    e.slot = slot, e.length = serial;
    return e;
  }
  /// The final end of an op; exactly one per `send`, however late, but for an op that was reported
  /// `unknown`. Do not report errors that mean "not supported": emulate the operation.
  static Event op_ended(Time now, OpId op, OpEnd end, Errc errc = Errc::ok) {
    Event e = of(Type::op_ended, now);
    e.op = op, e.end = end, e.errc = errc;
    return e;
  }
  /// The answer to Action::compare: which of the legs read differ from the lowest one of them.
  static Event compared(Time now, Slot slot, LegMask differ) {
    Event e = of(Type::compared, now);
    e.slot = slot, e.mask = differ;
    return e;
  }
  /// The originator does not want it any more: answered `cancelled` if nothing was sent yet; else
  /// it goes on to its end (Z3).
  static Event cancel(Time now, Slot slot) {
    Event e = of(Type::cancel, now);
    e.slot = slot;
    return e;
  }
  /// Time passed; due at State::next_deadline(), welcome whenever.
  static Event tick(Time now) { return of(Type::tick, now); }
  /// The commit that Action::commit asked for is durable, or failed and will be asked for again.
  static Event log_committed(Time now, bool ok) {
    Event e = of(Type::log_committed, now);
    e.ok = ok;
    return e;
  }

  /// The leg's session broke (S1). Its ops are reported as well, each `unknown` or with its reply,
  /// before or after this.
  static Event leg_lost(Time now, unsigned leg) { return about(Type::leg_lost, now, leg); }
  /// The end of Action::fence. Before it every op sent to the leg has been reported ended.
  static Event fence_ended(Time now, unsigned leg, FenceEnd end) {
    Event e = about(Type::fence_ended, now, leg);
    e.fence = end;
    return e;
  }
  /// The end of Action::open.
  static Event opened(Time now, unsigned leg, bool ok) {
    Event e = about(Type::opened, now, leg);
    e.ok = ok;
    return e;
  }
  /// Operators' words. State::may() tells beforehand whether one is refused, and why; a refused
  /// one does nothing.
  static Event fail_leg(Time now, unsigned leg) { return about(Type::fail_leg, now, leg); }
  static Event readd_leg(Time now, unsigned leg) { return about(Type::readd_leg, now, leg); }
  static Event remove_leg(Time now, unsigned leg) { return about(Type::remove_leg, now, leg); }
  /// Into an absent place, empty: all of it is copied. The caller opens it when told to.
  static Event add_leg(Time now, unsigned leg) { return about(Type::add_leg, now, leg); }
  /// A person says that nothing sent to this leg before can land any more (S2): it is fenced once
  /// more, with that for a proof.
  static Event vouch_leg(Time now, unsigned leg) { return about(Type::vouch_leg, now, leg); }

  static Event pause_resync(Time now) { return of(Type::pause_resync, now); }
  static Event resume_resync(Time now) { return of(Type::resume_resync, now); }
  static Event set_resync_rate(Time now, std::uint64_t bytes_a_second) {
    Event e = of(Type::set_resync_rate, now);
    e.length = bytes_a_second;
    return e;
  }
  static Event start_scrub(Time now, Scrub how) {
    Event e = of(Type::start_scrub, now);
    e.scrub = how;
    return e;
  }
  static Event stop_scrub(Time now) { return of(Type::stop_scrub, now); }

  /// No request is in flight but those that wait for a leg (answered with an error now), and none
  /// comes. Ends with Action::quiesced: nothing of the machine runs but zombies, fences and opens
  /// (I10). resume may come before that.
  static Event suspend(Time now) { return of(Type::suspend, now); }
  static Event resume(Time now) { return of(Type::resume, now); }
  /// After quiesced: flushes, cleans and closes the record; ends with Action::stopped. Nothing
  /// follows but late ends.
  static Event stop(Time now) { return of(Type::stop, now); }

 private:
  static Event of(Type type, Time now) {
    Event e;
    e.type = type, e.now = now;
    return e;
  }
  static Event about(Type type, Time now, unsigned leg) {
    Event e = of(type, now);
    e.leg = static_cast<std::uint8_t>(leg);
    return e;
  }
};

/// What happened, for people and programs (Action::notice).
enum class Notice : std::uint8_t {
  leg_state,    ///< leg; state() tells
  leg_in_sync,  ///< leg: nothing of it is STALE any more
  leg_slow,     ///< leg; an op passed its time
  leg_error,    ///< leg, errc, offset
  leg_needed,   ///< leg: a person failed it, and after the restart nothing goes without it
  all_failed,   ///< offset: no leg can serve there
  hard_limit,   ///< leg, offset: the last leg's op passed its hard limit; the range is locked
  resync_started,
  resync_finished,
  resync_stuck,    ///< stuck: offset cannot be read anywhere
  scrub_mismatch,  ///< leg, offset, length
  scrub_finished,  ///< value: mismatches
  log_failed,
  log_recovered,
};

/// An action. Carry them out in order, after the machine's lock has been released. What each
/// needs beside `type`:
struct Action {
  enum class Type : std::uint8_t {
    /// kind, flags, leg, op, slot, offset, length; value: for all_ok. The op takes a reference to
    /// the slot's buffer
    /// (W2). `own_buffer`: a read that may end after its request was answered goes into a buffer
    /// of its own (R4); that of a machine's slot is kept until the slot's answer. A machine's slot
    /// gets a fresh buffer with its first send after an answer: late ops keep the old one.
    send,
    /// op: its end is not waited for any more; whoever can give it up does (Z3). op_ended still
    /// comes.
    cancel,
    /// slot, errc; a read that is ok: op tells whose buffer holds the data. `keep`: the slot stays
    /// taken until free_slot (its range is locked by an op whose end is unknown, W5). For a slot
    /// of the machine's: its buffer is not needed any more.
    answer,
    free_slot,  ///< slot
    /// The log has something to write: State::log().next_batch() until it is empty, make it
    /// durable, then log_committed. One commit at a time.
    commit,
    /// leg, value: the epoch. End its session, seek proof, then fence_ended. `vouched`: a person
    /// has said that nothing can land any more, which is the proof (S2).
    fence,
    open,   ///< leg, value: the epoch. Make a session, then opened
    close,  ///< leg: removed; its handle can go once its ops have ended
    /// slot, mask: compare these legs' reads of the slot (the ops' own buffers), then `compared`.
    compare,
    /// notice, leg, errc, offset, length, value
    notice,
    started,   ///< errc; not_found: legs in `mask` are missing, and the record needs them (B3)
    quiesced,  ///< after suspend
    stopped,   ///< after stop; errc
  };

  Type type = Type::notice;
  Kind kind = Kind::read;
  std::uint8_t leg = 0;
  std::uint8_t flags = 0;
  Errc errc = Errc::ok;
  Notice notice = Notice::leg_state;
  bool own_buffer = false;
  bool keep = false;
  bool vouched = false;
  LegMask mask = 0;
  Slot slot = 0;
  OpId op;
  std::uint64_t offset = 0;
  std::uint64_t length = 0;
  std::uint64_t value = 0;
};

/// The actions of one or more events; the caller clears it. Grows to the largest burst and keeps
/// that memory.
class Actions {
 public:
  Actions() { list_.reserve(32); }
  Action& add(Action::Type type) {
    Action& action = list_.emplace_back();
    action.type = type;
    return action;
  }
  void clear() noexcept { list_.clear(); }
  bool empty() const noexcept { return list_.empty(); }
  std::size_t size() const noexcept { return list_.size(); }
  const Action& operator[](std::size_t i) const { return list_[i]; }
  auto begin() const noexcept { return list_.begin(); }
  auto end() const noexcept { return list_.end(); }

 private:
  std::vector<Action> list_;
};

}  // namespace blockloom::mirror
