#pragma once

#include <array>
#include <atomic>
#include <condition_variable>
#include <deque>
#include <functional>
#include <memory>
#include <mutex>
#include <span>
#include <string>
#include <thread>
#include <vector>

#include "server/io/deadline_wheel.hpp"
#include "server/io/io_client.hpp"
#include "server/leg/leg.hpp"
#include "server/leg/remote_leg.hpp"
#include "server/target/mirror/log_store.hpp"
#include "server/target/mirror/spec.hpp"
#include "server/target/mirror/state.hpp"
#include "server/target/target.hpp"

namespace blockloom::mirror {

class Json;

/// A leg as a table line asks for it: open, or missing and why.
struct WantedLeg {
  LegSpec spec;
  std::shared_ptr<Leg> leg;  ///< null: could not be opened
  std::string missing;       ///< why
};

/// What a table line asks of a mirror.
struct Wanted {
  MirrorSpec spec;
  Bytes size;
  std::vector<WantedLeg> legs;  ///< in the line's order
  std::shared_ptr<Leg> log;     ///< null: core log
};

/// The most that a read, a write or a copy of the mirror takes at once.
inline constexpr Bytes largest_piece(1 << 20);

/// A mirror that lives: its state machine, its record, its legs and what is out on them. It
/// outlives the tables that show it: a table swap that adds a leg or changes a feature hands the
/// same Mirror from the old table's target to the new one's, with all that it knows, so that no
/// write that is late is ever forgotten, and the record never has two masters. See
/// docs/design-notes.md.
///
/// One target at a time owns it (`owner` is that target's address). The owner's hooks call take()
/// to let_go(); map() comes on any thread; status at any time.
///
/// Threads: client threads carry their own requests' actions out; the legs' threads report ends;
/// one worker of its own ("bl-mirror") does what may block: ticks, copies, fences, the log.
class Mirror : public std::enable_shared_from_this<Mirror> {
 public:
  /// The mirror that a line means: one that lives and has its log or one of its legs; else a new
  /// one. Errc::invalid if it lives with another size or region size.
  static Result<std::shared_ptr<Mirror>> find_or_make(const MirrorSpec& spec, Bytes size);
  explicit Mirror(Bytes size, Bytes region_size);
  ~Mirror();
  Mirror(const Mirror&) = delete;
  Mirror& operator=(const Mirror&) = delete;

  /// A leg that this mirror has open, to be used again by the next table; null if there is none
  /// that is worth it.
  std::shared_ptr<Leg> open_leg_of(const LegSpec& leg) const;
  std::shared_ptr<Leg> open_log(std::string_view uri) const;

  // --- the owner's hooks ----------------------------------------------------------------------

  /// preresume: becomes the owner. The first one starts the mirror (B1 to B3); a later one takes
  /// over from one that is suspended, and adds, drops and changes what its line says differently.
  /// Errc::busy while another table serves with it. On failure everything is as before.
  Result<void> take(const void* owner, const Wanted& wanted);
  void presuspend(const void* owner) noexcept;
  void presuspend_undo(const void* owner) noexcept;
  /// Until nothing of it runs but what is late, fences and opens (I10).
  void postsuspend(const void* owner) noexcept;
  void resume(const void* owner) noexcept;
  /// The target ends. The owner's: cleans and closes the record, and ends all sessions.
  void let_go(const void* owner) noexcept;
  void release_held(Errc status) noexcept;

  // --- data -----------------------------------------------------------------------------------

  Map map(Io& io) noexcept;
  /// Requests that are inside.
  std::uint64_t held() const noexcept { return inside_.load(std::memory_order_relaxed); }

  // --- people ---------------------------------------------------------------------------------

  Result<std::string> message(std::span<const std::string> words, const Wanted& wanted);
  /// dm-raid1's, after the legs' names: "IN_SYNC/REGIONS 1 AA".
  std::string status_words(const Wanted& wanted) const;
  /// Everything, as one JSON object.
  std::string details(const Wanted& wanted) const;

 private:
  struct Batch;
  class BatchHold;
  class Link;

  // Parts of details(), under the mutex.
  void progress_details(Json& json, const MirrorView& view) const;
  void scrub_details(Json& json, const MirrorView& view, const Wanted& wanted) const;
  void leg_details(Json& json, const LegSpec& spec, Time now) const;

  /// One op's context, an element of its leg's array, from send to its final end.
  struct OpContext {
    Mirror* mirror = nullptr;
    OpId id;
    Slot slot = 0;
    IoBufferRef buffer;         // what it reads or writes, if pooled
    std::byte* data = nullptr;  // else the submitter's
    std::atomic<std::uint64_t> handle{0};
    std::atomic<bool> cancel_wanted{false};
  };

  /// A request of a client, or of the machine itself.
  struct SlotContext {
    Io* io = nullptr;  // a client's
    IoBufferRef buffer;
    std::array<IoBufferRef, max_legs> own;  // reads into buffers of their own, by leg (R4)
    std::unique_ptr<Extents> extents;
    std::uint64_t length = 0;  // of the last send
  };

  /// A place for a leg; its number is the machine's name for it.
  struct Place {
    bool used = false;
    LegSpec spec;
    Uuid identity{};
    std::shared_ptr<Leg> leg;   // null while missing
    std::shared_ptr<Leg> next;  // takes its place when it is opened again: to the same storage
    std::string trouble;        // why it is missing, or what its fence said
    RemoteLeg* remote = nullptr;
    std::unique_ptr<Link> link;
    Bytes offset;
    std::unique_ptr<OpContext[]> ops;
    std::uint64_t out = 0;                  // ops that were sent and not reported ended
    std::atomic<std::uint32_t> in_hand{0};  // given by the machine, not yet submitted
    std::atomic<bool> fence_waits{false};   // for in_hand to be 0
    std::atomic<bool> proof_waits{false};   // for `out` to be 0
    bool here = false;                      // answers inside the call
    bool lane = false;                      // has a timeout
    bool read_failed = false;
    bool told_in_sync = true;
    bool fenced_once = false;  // by this process, against everyone before (B1)
    struct {
      bool wanted = false, answered = false, vouched = false;
      std::uint64_t epoch = 0;
      FenceEnd end = FenceEnd::proof;
      unsigned tries = 0;
    } fence;
  };

  // mirror_start.cpp: from the record to serving
  Result<void> start_first(const Wanted& wanted);
  Result<RegionLog> record(const Wanted& wanted);
  Result<RegionLog> new_record(const Wanted& wanted) const;
  std::string refusal_locked() const;
  Result<RegionLog> known_record(const Wanted& wanted);
  Result<void> match_legs(const Wanted& wanted, RegionLog& log) const;
  Result<void> start_state(const Wanted& wanted, RegionLog log);
  Result<void> begin();
  Config config_of(const MirrorSpec& spec) const;
  Result<void> put_leg(unsigned place, const WantedLeg& wanted, const MirrorSpec& spec);
  void note_modes_locked();

  // mirror.cpp: life
  Result<void> change_to(const Wanted& wanted);
  Result<void> drop_legs(const Wanted& wanted);
  Result<void> add_legs(const Wanted& wanted);
  void exchange_leg(unsigned place, const WantedLeg& wanted);
  Result<void> change_log(const Wanted& wanted);
  bool wait_for(const std::function<bool()>& done_locked, TimePoint deadline);
  void quiesce() noexcept;
  void go_on() noexcept;
  bool reopened(const Wanted& wanted) const;
  void stop_all() noexcept;
  bool name_members();
  int place_of(const LegSpec& leg) const noexcept;

  // mirror_io.cpp: requests, and carrying actions out
  Map submit_slot(Io& io, IoBufferRef buffer) noexcept;
  bool needs_copy(const Io& io) const noexcept;
  bool park(Io& io) noexcept;
  void start_parked() noexcept;
  void fail_parked(Errc status) noexcept;
  void visit(const Event& event, bool may_block) noexcept;
  void settle_locked(Batch& batch) noexcept;
  void settle_action_locked(Batch& batch, const Action& action) noexcept;
  void settle_send_locked(const Action& action) noexcept;
  void settle_answer_locked(Batch& batch, const Action& action) noexcept;
  void run(Batch& batch) noexcept;
  void carry(Batch& batch) noexcept;
  void carry_send(Batch& batch, const Action& action) noexcept;
  void finish_answers(Batch& batch) noexcept;
  void cancel_op(const OpId& op) noexcept;
  void commit(Batch& batch) noexcept;
  static void op_notice(const IoNotice& notice, void* context) noexcept;
  void drop_waiting_locked(Batch& batch) noexcept;
  Time now() const noexcept;

  // mirror_worker.cpp, mirror_sessions.cpp: what may block
  void post(const Action& action) noexcept;
  void post_call(std::function<void()> call);
  void ensure_worker() noexcept;
  void work() noexcept;
  bool work_once();
  void do_action(const Action& action) noexcept;
  void do_fence(unsigned place) noexcept;
  void do_open(unsigned place, std::uint64_t epoch) noexcept;
  void open_session(unsigned place, std::uint64_t epoch) noexcept;
  void open_next(unsigned place, std::uint64_t epoch) noexcept;
  bool reopen(unsigned place);
  void do_compare(const Action& action) noexcept;
  void do_notice(const Action& action) noexcept;
  void fence_answered(unsigned place, FenceResult result) noexcept;
  void check_fence(unsigned place) noexcept;
  void arm_locked() noexcept;

  const Bytes size_;
  const Bytes region_size_;

  std::mutex control_;  // hooks and messages, one at a time; taken before mutex_
  const void* owner_ = nullptr;
  bool live_ = false;  // resumed

  // Set at start, while nothing runs.
  std::unique_ptr<IoClient> client_;
  std::unique_ptr<LogStore> log_store_;
  bool nothing_out_ = false;  // the record shows that no earlier write is under way (B1)
  bool all_here_ = true;      // every leg answers inside the call
  bool bounded_ = false;      // some leg has a timeout: events carry the time
  bool hedging_ = false;

  mutable std::mutex mutex_;  // protects what follows
  std::unique_ptr<State> state_;
  MirrorSpec spec_;
  std::array<Place, max_legs> places_;
  Slot client_slots_ = 0;  // those after it are the machine's
  std::vector<SlotContext> slots_;
  std::vector<Slot> free_slots_;
  std::deque<Io*> parked_;  // requests that wait for a slot, a buffer, or the start
  bool serving_ = false;    // started
  bool refused_ = false;    // could not start: parked requests fail
  bool draining_ = false;   // a suspend has begun
  bool suspended_ = false, quiesced_ = false, stopped_ = false;
  bool begun_ = false, started_ = false;  // the start: asked for, over
  Errc start_result_ = Errc::ok;
  LegMask missing_legs_ = 0;
  std::string refusal_;
  Time armed_at_ = never;
  std::uint64_t armed_ = 0;  // how often the timer was, and
  std::condition_variable changed_;

  std::atomic<std::uint64_t> fired_{0};  // how often that is over
  std::atomic<unsigned> callbacks_{0};   // of the timer that run
  std::atomic<std::uint64_t> inside_{0};

  std::mutex work_mutex_;  // protects what follows; innermost
  std::condition_variable work_there_;
  std::deque<Action> actions_;
  std::deque<std::function<void()>> calls_;
  bool tick_due_ = false, stopping_ = false, worker_ended_ = false;
  std::thread worker_;

  DeadlineWheel::Node timer_;
  std::shared_ptr<DeadlineWheel> wheel_;
};

/// A leg's identity in the record: of its storage and offset.
Uuid identity_of(const LegSpec& leg) noexcept;
std::string to_text(const Uuid& uuid);
Result<Uuid> parse_uuid(std::string_view text);

}  // namespace blockloom::mirror
