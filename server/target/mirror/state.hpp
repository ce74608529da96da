#pragma once

#include <cstdint>
#include <memory>
#include <span>
#include <string>

#include "server/base/error.hpp"
#include "server/target/mirror/recovery.hpp"
#include "server/target/mirror/region_log.hpp"
#include "server/target/mirror/types.hpp"

namespace blockloom::mirror {

/// A leg as `mirror-status` shows it.
struct LegView {
  LegState state = LegState::absent;
  bool held = false;  ///< failed by a person: stays down until readd
  Errc last_error = Errc::ok;
  std::uint64_t epoch = 0;  ///< of its session
  std::uint64_t stale_regions = 0;
  bool unflushed_only_here = false;  ///< it is down with data that no other leg has; flushes wait
  std::uint32_t outstanding = 0;     ///< ops sent and not ended, zombies included
  std::uint32_t zombies = 0;         ///< writes whose end is unknown
  std::uint64_t zombie_bytes = 0;
  std::uint64_t errors = 0;
  std::uint64_t timeouts = 0;
  std::uint64_t fences = 0;
  Time retry_at = never;  ///< next try to fence or open
};

/// The mirror as a whole.
struct MirrorView {
  enum class Phase : std::uint8_t { fresh, assembling, serving, refused, suspended, stopped };
  Phase phase = Phase::fresh;
  std::uint64_t epoch = 0;
  std::uint64_t regions = 0;
  std::uint64_t region_size = 0;
  std::uint64_t dirty_regions = 0;
  std::uint64_t in_sync_regions = 0;  ///< STALE on no present leg: dm's sync ratio
  std::uint32_t in_flight = 0;        ///< the caller's requests
  std::uint32_t waiting_for_leg = 0;  ///< of these, held back by on_all_failed=queue
  std::uint32_t waiting_flushes = 0;  ///< of these, flushes
  Errc waiting_error = Errc::ok;      ///< what the last leg said to the first of them, if it did
  std::uint64_t waiting_offset = 0;   ///< of that one; a flush has none
  Time waiting_until = never;         ///< when the first of them is given up
  std::uint64_t degraded_writes = 0;  ///< answered with a leg left out
  std::uint64_t hedged_reads = 0;
  std::uint64_t retried_reads = 0;  ///< sent to another leg after an error or a timeout
  std::uint64_t log_commits = 0;
  bool log_failing = false;
  Progress resync;
  bool scrubbing = false;
  std::uint64_t scrub_next = 0;        ///< offset where the scrub is
  std::uint64_t scrub_mismatches = 0;  ///< found by the last scrub, or the running one
};

/// A range where legs differ, found by a scrub.
struct Mismatch {
  std::uint64_t offset = 0;
  std::uint64_t length = 0;
  LegMask legs = 0;  ///< which differ from the first of those compared
};

/// One region, for tests and for `mirror-status --regions`.
struct RegionView {
  bool dirty = false;       ///< in memory
  bool settled = true;      ///< the log says durably what is in memory
  LegMask stale = 0;        ///< in memory
  LegMask zombies = 0;      ///< legs with an op here whose end is unknown
  LegMask copying = 0;      ///< legs in RESYNC here
  std::uint32_t users = 0;  ///< requests and locks here
};

/// The mirror's decisions: events in, actions out. No clock, no I/O, no threads; on the steady
/// path no allocation. Everything that the rules of docs/mirror-design.md ask for is decided here,
/// and only here; the target around it carries actions out and reports what came of them.
///
/// Threads: none of its own. One mutex of the caller's protects all members. A visit is short: a
/// write to a dirty region with all legs up costs well under 0.3 us for both of its visits
/// (submit, and all_ok when its ops ended in the caller's thread). Carry actions out after
/// releasing the mutex; those of one visit in order, visits of several threads in any order
/// between them, but fence and open after every send that an earlier visit gave for that leg.
///
/// Typical write:  submit -> send leg 0, send leg 1 -> all_ok -> answer.
/// In a region that is not yet dirty: submit -> commit; log_committed -> send, send; …
/// After a timeout: tick -> cancel, commit (STALE); log_committed -> answer, while the op is still
/// out; later op_ended (nothing to do), and fence, open, and the resync by itself.
class State {
 public:
  /// Fails, saying what is wrong, when config and log don't fit each other or are not sensible.
  /// The log comes from RegionLog::create() or load().
  static Result<std::unique_ptr<State>> create(const Config& config, RegionLog log);
  ~State();
  State(const State&) = delete;
  State& operator=(const State&) = delete;

  /// Takes an event, appends what is to be done about it. A reply that no one waits for (a late
  /// one, of an op that a fence resolved) is ignored.
  void on(const Event& event, Actions& out);

  /// Takes over what a next table says differently: times, bounds, policies, rates, and what a leg
  /// is like that is to be added. While suspended. Sizes and who is there stay as they are.
  void configure(const Config& config);

  /// When the next tick is due; `never` if nothing waits for time to pass. It may come earlier
  /// than it was before each visit; an early or spurious tick is harmless.
  Time next_deadline() const noexcept;

  std::uint32_t slots() const noexcept;    ///< the caller's and the machine's
  std::uint32_t leg_ops() const noexcept;  ///< most ops that one leg can have out

  /// For Action::commit, with the mutex held; see RegionLog::next_batch().
  RegionLog& log() noexcept;

  // Status, with the mutex held.
  LegView leg(unsigned leg) const noexcept;
  unsigned legs() const noexcept;  ///< places, absent ones included
  MirrorView view(Time now) const noexcept;
  RegionView region(std::uint64_t region) const noexcept;
  /// The first mismatches of the last scrub (at most 1000).
  std::span<const Mismatch> mismatches() const noexcept;
  /// Why an operator's event would be refused; ok: it would not.
  Result<void> may(const Event& event) const;
  /// After Action::started with an error: a sentence that says what is missing and what to do.
  const std::string& refusal() const noexcept;

 private:
  class Machine;
  explicit State(std::unique_ptr<Machine> machine);
  std::unique_ptr<Machine> machine_;
};

/// The word for a leg's state in JSON and logs: "up", "down_fenced", …
std::string_view to_string(LegState state) noexcept;
std::string_view to_string(Notice notice) noexcept;

}  // namespace blockloom::mirror
