#pragma once

#include <cstdint>
#include <functional>
#include <string>

#include "server/base/clock.hpp"
#include "server/base/error.hpp"
#include "server/leg/io.hpp"

namespace blockloom {

class RemoteLeg;

// What a mirror asks of a leg beyond Leg: links that are lost, fences that prove that an old write
// can no longer land, sessions that open only after such a proof. The rules named here (W2, S1,
// Z3…) are the mirror protocol's.
//
// Leg::remote() gives this interface for legs that have a peer (NBD, iSCSI). It is null for local
// legs (file, memory, dev, fault): they have no link to lose, and their fence is to wait until
// every Io that was handed to them has completed, which their submitter counts by itself.
//
// How an Io may end, on any leg:
//   ok, or an error but the two below   The peer's answer: final. (An error leaves the contents of
//                                       what was written undefined, now; nothing comes later.)
//   Errc::cancelled                     It will have no effect any more: it was never sent, or the
//                                       peer proved that it ended it. Final.
//   Errc::timed_out (end_unknown)       It was sent, no answer came, and none will come: the link
//                                       is gone, or the leg gave it up. It may still happen: a
//                                       zombie, which only a fence's proof resolves.
// In all three the leg reads and writes the Io's buffer no more: from the completion on it is the
// submitter's again (W2, H7). Until then it is the leg's, however long that takes: who wants an
// answer earlier answers by its own clock, keeps the buffer, and may cancel().

/// The status of an Io whose end nobody knows.
inline constexpr Errc end_unknown = Errc::timed_out;

/// How strong a fence has to be.
enum class FenceScope : std::uint8_t {
  /// Against what this leg object sent. Enough for a failure while the process runs.
  own,
  /// Also against what an earlier process, another host or another leg object to the same place
  /// sent with a lower epoch (B1).
  everyone,
  /// A person vouches that nothing sent before can land any more (S2). The leg only ends what is
  /// left of its own sessions, and gives the proof without asking the peer.
  vouched,
};

enum class Proof : std::uint8_t {
  /// Nothing that was sent before can land any more (I7), and every Io of before has completed.
  given,
  /// The deadline passed before the proof came; nothing is lost by that: the fence goes on behind,
  /// and the next fence() with the same or a higher epoch joins it.
  not_yet,
  /// This leg can give none for what is out there (say, the link to a foreign NBD server is dead,
  /// with writes unanswered): the leg stays out (S2) until a person says so or it is replaced.
  impossible,
};

struct FenceResult {
  Proof proof = Proof::impossible;
  std::string reason;  ///< unless given: why not, for people; names the leg's peer
};

/// What happens to the link of a leg under control. Called on the leg's own thread or on a thread
/// that waits for I/O, never inside a call into the leg, one at a time for a leg, in order. Short;
/// must not block; may call the RemoteLeg and Leg::submit, but not release() nor the destructor.
class LinkListener {
 public:
  virtual ~LinkListener() = default;

  /// The session is over (S1). Every Io that was in flight on it has completed before: with its
  /// answer, with Errc::cancelled (never sent), or with end_unknown. Those submitted from now on
  /// end at once with Errc::io. What was written and not flushed may be lost where
  /// Traits::volatile_cache says so. Not called for an end that fence(), abandon() or release()
  /// brought about.
  virtual void link_lost(RemoteLeg& leg, const Error& reason) noexcept = 0;

  /// A session is open: open_session() succeeded, and its completion comes next.
  virtual void link_up(RemoteLeg& leg, std::uint64_t epoch) noexcept = 0;
};

/// The answer to cancel().
enum class Cancel : std::uint8_t {
  /// The leg does not have it: its completion has run, runs now, or is about to.
  gone,
  /// It never left: its completion runs with Errc::cancelled, perhaps before cancel() returns.
  never_sent,
  /// The peer was asked to end it (iSCSI's ABORT TASK): the completion runs with its real status,
  /// with Errc::cancelled (the peer's proof), or, if the peer stays silent, only when it answers,
  /// or with end_unknown when the session ends.
  asked,
  /// It cannot be taken back (NBD has no abort): still in flight, a zombie (Z3). The completion
  /// runs when the peer answers, or with end_unknown when the session ends.
  unknown,
};

/// A leg with a peer, under the control of one mirror. The life of a leg:
///
///   open_leg()       one attempt, bounded; the session made there serves plain targets (linear…),
///                    for which the leg reconnects by itself
///   take_control()   from here on it never reconnects, resends or gives up an Io by itself, and
///                    has no session: Leg::submit ends with Errc::io
///   fence(e)         → given: nothing sent before lands any more
///   open_session(e)  → ok: I/O flows, until
///   link_lost(), or fence(e + 1) because the mirror suspects the leg, or abandon()
///   fence(e + 1), open_session(e + 1), …   epochs only rise
///   release()        ends it; afterwards the leg only waits for its destructor
///
/// Any thread, except where a comment says otherwise. No call waits for the peer, but release().
/// Completions run exactly once, on the leg's thread or on one that waits for I/O, or within the
/// call, under no lock of the leg; they must not block. A second fence() or open_session() while
/// one runs takes its place: the first one completes as not_yet, or with Errc::busy.
class RemoteLeg {
 public:
  struct Traits {
    /// Leg::submit returns pending without waiting for the peer. False: it may block its caller as
    /// long as the peer likes, so a bounded user calls it on a lane of its own.
    bool asynchronous = true;
    /// A write that completed may be lost with the peer until a flush covers it (S1). False only
    /// where the peer says that it has no such cache.
    bool volatile_cache = true;
  };

  using FenceDone = std::function<void(FenceResult)>;
  using OpenDone = std::function<void(Result<void>)>;

  /// As the last session (or open_leg) found it.
  virtual Traits traits() const noexcept = 0;

  /// Makes the caller the leg's only master, and ends the session of open_leg() in order.
  /// Errc::busy if another one has it (the same leg twice in a table). The listener lives until
  /// release().
  virtual Result<void> take_control(LinkListener& listener) = 0;

  /// Proves that nothing sent so far lands any more, or says why there is no proof. First it bars:
  /// every Io submitted from this moment on ends with Errc::io, until open_session(). Then, by what
  /// the peer can do: wait for the answers and the peer's close (NBD's drain), let the peer bar
  /// older epochs (Blockloom's own server), ABORT TASK, LUN RESET and relogin (iSCSI). It connects
  /// anew where that is the way, as often as the deadline allows, with growing pauses.
  ///
  /// `epoch` is higher than every one that was ever used for this leg's contents; the caller has
  /// stored it (B1). The same one may be asked again after not_yet. Lower: Proof::impossible.
  ///
  /// When `done` says given, every Io of before has completed, and those that had completed with
  /// end_unknown are resolved: z = 0 (S2).
  /// When it says not_yet or impossible, Ios may still be in flight; abandon() gets their buffers
  /// back.
  virtual void fence(std::uint64_t epoch, FenceScope scope, TimePoint deadline, FenceDone done) = 0;

  /// Opens the session of that epoch. Only after its fence gave the proof: else Errc::invalid,
  /// which is the leg's own guard for S2. Tries again with growing, jittered pauses until the
  /// deadline, which may be TimePoint::max(): then until fence(), abandon() or release(). The peer
  /// must still be what it was at open_leg(): one that has shrunk, or become read-only, is an error
  /// at once.
  virtual void open_session(std::uint64_t epoch, TimePoint deadline, OpenDone done) = 0;

  /// Takes back one Io that was submitted and whose completion has not run yet as far as the caller
  /// knows. The caller keeps the Io's memory valid during the call.
  virtual Cancel cancel(Io& io) noexcept = 0;

  /// Drops the link now, whatever it costs: every Io in flight completes soon, with end_unknown or
  /// Errc::cancelled (perhaps before this returns), so that all buffers are free. It spends what a
  /// drain could have proved: unless nothing was unanswered, or the peer knows epochs or aborts,
  /// the next fence is impossible. A running fence goes on with what is left.
  virtual void abandon(const Error& reason) noexcept = 0;

  /// Ends control: no listener call or completion runs after it returns (Ios in flight complete
  /// before, as with abandon()). Bounded. Not from a callback of the leg. Idempotent; the leg's
  /// destructor calls it.
  virtual void release() noexcept = 0;

  /// The state of the link in a few words, for status and messages: "connected to nbd://… (epoch
  /// 17)", "lost: connection reset by peer", "draining, 3 requests unanswered".
  virtual std::string link_state() const = 0;

 protected:
  ~RemoteLeg() = default;
};

}  // namespace blockloom
