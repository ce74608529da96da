#pragma once

#include <array>
#include <bit>
#include <cassert>
#include <cstdlib>
#include <memory>
#include <string>
#include <vector>

#include "server/target/mirror/machine_parts.hpp"
#include "server/target/mirror/rules.hpp"
#include "server/target/mirror/state.hpp"

/// The machine behind State; its sources: machine_requests (locks, writes, reads),
/// machine_ops (ops, timeouts, zombies), machine_legs (sessions, fences), machine_flush (flush,
/// clean), machine_copy (resync), machine_scrub, machine_start (restart, suspend, stop).
namespace blockloom::mirror {

class State::Machine {
 public:
  Machine(const Config& config, RegionLog log);

  /// False: there was no memory for the regions.
  bool whole() const noexcept { return regions_ != nullptr; }

  void on(const Event& event, Actions& out);
  void configure(const Config& config);

  // What State shows.
  Time next_deadline() const noexcept { return deadline_; }
  std::uint32_t slots() const noexcept { return static_cast<std::uint32_t>(requests_.size()); }
  std::uint32_t leg_ops() const noexcept { return slots() * 3; }
  RegionLog& log() noexcept { return log_; }
  LegView leg_view(unsigned leg) const noexcept;
  unsigned legs() const noexcept { return static_cast<unsigned>(legs_.size()); }
  MirrorView view(Time now) const noexcept;
  RegionView region_view(std::uint64_t region) const noexcept;
  const std::vector<Mismatch>& mismatches() const noexcept { return mismatches_; }
  Result<void> may(const Event& event) const;
  const std::string& refusal() const noexcept { return refusal_; }

 private:
  using Phase = MirrorView::Phase;
  struct Free {
    void operator()(Region* p) const noexcept { std::free(p); }
  };

  // machine.cpp
  void dispatch(const Event& event);
  void operate(const Event& event);
  void settle();
  bool may_commit() const noexcept;
  void work(Slot slot);
  void tick();
  Action& act(Action::Type type) { return out_->add(type); }
  void note(Notice notice, unsigned leg, Errc errc = Errc::ok, std::uint64_t offset = 0,
            std::uint64_t length = 0, std::uint64_t value = 0);
  void arm(Time when) noexcept {
    if (when < deadline_) deadline_ = when;
  }
  Region& region(std::uint64_t r) noexcept { return regions_[r]; }
  const Region& region(std::uint64_t r) const noexcept { return regions_[r]; }
  std::uint64_t region_end(std::uint64_t r) const noexcept;

  // Marks in the record.
  bool settled(const Region& g) const noexcept { return g.mark <= log_.completed(); }
  bool dirty_durable(const Region& g) const noexcept {
    return g.dirty && (!g.dirty_pending || settled(g));
  }
  bool stale_durable(const Region& g) const noexcept { return !g.stale_pending || settled(g); }
  /// Z1.
  static LegMask barred(const Region& g) noexcept { return removed(Rule::z1) ? 0 : g.zombies; }
  void marked(Region& g, Ticket ticket, bool Region::*pending) noexcept;
  void set_stale(std::uint64_t r, LegMask legs);
  void set_dirty(std::uint64_t r);
  bool is_last(const Region& g, unsigned leg) const noexcept {
    return (present_ & ~g.stale) == leg_bit(leg);
  }
  void log_committed(bool ok);

  // machine_requests.cpp
  void submit(const Event& event);
  void all_ok(Slot slot, std::uint64_t serial);
  void cancel(Slot slot);
  bool lock(Slot slot);
  void unlock(Slot slot);
  void begin(Slot slot);
  void start_write(Slot slot);
  void advance_write(Slot slot);
  void start_read(Slot slot);
  void finish_read(Slot slot);
  LegMask readable(const Request& r) const noexcept;
  unsigned choose(LegMask candidates);
  void hedge(Slot slot);
  void no_leg(Slot slot);
  void wait_for_log(Slot slot, Step step);
  void stop_waiting(Slot slot);
  void answer(Slot slot, Errc errc);
  void release(Slot slot);
  void wait_until(Request& r, Time limit);
  static void limit_by_leg(Request& r);
  void time_waiters();
  void give_up_waiting(Slot slot, Errc errc);
  void wake_leg_waiters();
  bool may_go_on(const Request& r) const noexcept;

  // machine_ops.cpp
  bool has_room(unsigned leg) const noexcept { return !legs_[leg].free_ops.empty(); }
  void send(Slot slot, unsigned leg, Kind kind, bool own_buffer);
  void op_ended(const Event& event);
  /// How an op failed: it ended (`error`, also `cancelled`), or it may still land (`lost` with its
  /// session, or out of `time`).
  enum class Fail : std::uint8_t { error, lost, time };
  void op_ok(Slot slot, unsigned leg);
  void op_failed(unsigned leg, std::uint32_t index, Fail how, Errc errc);
  void write_failed(unsigned leg, std::uint32_t index, Fail how);
  void read_failed(unsigned leg, std::uint32_t index, Fail how);
  void op_timeout(unsigned leg, std::uint32_t index, bool hard);
  bool alone(const Op& op, unsigned leg) const noexcept;
  void make_zombie(unsigned leg, std::uint32_t index, bool locks);
  void resolve(unsigned leg, std::uint32_t index);
  void abandon(unsigned leg, std::uint32_t index, bool watched = false);
  void retire(unsigned leg, std::uint32_t index);
  void free_op(unsigned leg, std::uint32_t index);
  void push_work(Slot slot);

  // machine_legs.cpp
  enum class Why : std::uint8_t { timeout, error, lost, person };
  void leg_out(unsigned leg, Why why, Errc errc);
  void leave_op(unsigned leg, std::uint32_t index);
  void lose_unflushed(unsigned leg);
  void late_unflushed(unsigned leg, std::uint64_t r);
  void enter_fencing(unsigned leg);
  void send_fences();
  void fence_ended(unsigned leg, FenceEnd end);
  void proven(unsigned leg);
  void opened(unsigned leg, bool ok);
  void leg_time(unsigned leg);
  void remove(unsigned leg);
  void go_on_removing();
  void removed_now(unsigned leg);
  void add(unsigned leg);
  void end_ops(unsigned leg);
  void idle_suspect(unsigned leg);
  void set_leg_state(unsigned leg, LegState state);

  // machine_flush.cpp
  void start_flush(Slot slot);
  void advance_flush(Slot slot);
  void flush_failed(unsigned leg, std::uint32_t index, Fail how, Errc errc);
  void maintain();
  void want_flush();
  void clean_pass();
  void clean_some();
  bool cleanable(const Region& g) const noexcept;

  // machine_copy.cpp
  void start_copies();
  bool pick_region(std::uint64_t& found);
  void copy_chunk(Slot slot);
  void copy_granted(Slot slot);
  void advance_copy(Slot slot);
  void copy_write_failed(unsigned leg, std::uint32_t index, Fail how);
  void end_copy(Slot slot);
  void stop_copying(std::uint64_t r, LegMask legs);
  void drop_copies(std::uint64_t r, LegMask legs);
  void stop_copying_leg(unsigned leg);
  void settle_copied();
  void leg_synced(LegMask legs);
  Copy& copy_of(Slot slot) { return copies_[slot - config_.max_requests]; }
  bool copies_idle() const noexcept;

  // machine_scrub.cpp
  void start_scrub(Scrub how);
  void stop_scrub(bool finished);
  void scrub_next();
  void scrub_granted(Slot slot);
  void advance_scrub(Slot slot);
  void compared(Slot slot, LegMask differ);
  void end_scrub_chunk(Slot slot);

  // machine_start.cpp
  void start(bool force);
  void assemble(bool waited);
  void assemble_degraded(LegMask up);
  void refuse(std::string why, LegMask missing);
  void choose_sources();
  void serve();
  void hold_again();
  void suspend();
  void resume();
  void quiesce();
  void stop();
  void stop_step();

  Config config_;
  RegionLog log_;
  unsigned shift_ = 0;
  std::unique_ptr<Region[], Free> regions_;
  std::vector<Leg> legs_;
  std::vector<Request> requests_;
  std::vector<LockList> buckets_;
  Slot scrub_slot_ = 0;
  Slot flush_slot_ = 0;

  Actions* out_ = nullptr;
  Time now_ = 1;
  bool timed_ = false;            ///< the event under way says what time it is
  bool untimed_waiters_ = false;  ///< requests wait whose deadline the next tick has to set
  Time deadline_ = never;
  std::vector<Slot> work_;
  bool kick_ = false;  ///< something changed that recovery or cleaning may wait for

  LegMask present_ = 0;
  LegMask up_ = 0;
  unsigned round_robin_ = 0;
  std::uint64_t next_flush_ = 1;
  Ticket stale_ticket_ = 0;  ///< of the newest STALE mark
  std::uint64_t epoch_ = 0;

  WaitList blocked_;          ///< requests that wait for their interval,
  Time block_limit_ = never;  ///< and how long each does: one that is locked may stay so (W5)
  WaitList log_waiters_;
  WaitList leg_waiters_;
  HedgeList hedges_;
  std::uint32_t waiting_ = 0;  ///< in leg_waiters_
  std::uint32_t in_flight_ = 0;
  bool log_failing_ = false;
  Time log_retry_ = never;
  bool all_failed_noted_ = false;

  Phase phase_ = Phase::fresh;
  bool suspending_ = false;
  bool force_ = false;
  Time assemble_until_ = never;
  bool choosing_ = false;  ///< B2's marks are on their way
  bool started_ = false;   ///< Action::started is out
  std::string refusal_;
  enum class Stopping : std::uint8_t { no, flushing, closing };
  Stopping stopping_ = Stopping::no;

  Pace pace_;
  std::vector<Copy> copies_;
  std::vector<Copied> copied_;
  std::uint64_t copy_cursor_ = 0;
  bool copy_stuck_ = false;
  Time copy_retry_ = never;
  bool resyncing_ = false;
  std::uint64_t copied_bytes_ = 0;

  bool flush_wanted_ = false;
  Time clean_at_ = never;
  std::uint64_t clean_before_ = 0;  ///< regions written before this flush number are cleaned
  std::uint64_t clean_mark_ = 0;
  std::uint64_t clean_cursor_ = ~std::uint64_t{0};

  bool scrubbing_ = false;
  Scrub scrub_how_ = Scrub::check;
  std::uint64_t scrub_at_ = 0;
  std::uint64_t scrub_found_ = 0;
  LegMask scrub_legs_ = 0;
  Time scrub_began_ = 0;
  std::vector<Mismatch> mismatches_;

  std::uint64_t degraded_writes_ = 0;
  std::uint64_t hedged_reads_ = 0;
  std::uint64_t retried_reads_ = 0;
  std::uint64_t log_commits_ = 0;
};

}  // namespace blockloom::mirror
