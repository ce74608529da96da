#pragma once

#include <array>
#include <cstdint>
#include <memory>
#include <queue>
#include <string>
#include <vector>

#include "server/target/mirror/state.hpp"
#include "tests/sim/history.hpp"
#include "tests/sim/random.hpp"

/// One schedule: the shipping state machine, its log and its recovery, under virtual time, with
/// legs that misbehave by a seed, clients, an engine that crashes, and someone who watches.
namespace blockloom::sim {

namespace mirror = blockloom::mirror;
using mirror::Action;
using mirror::Event;
using mirror::LegMask;
using mirror::OpEnd;
using mirror::OpId;
using mirror::Slot;

inline constexpr unsigned block_size = 512;
inline constexpr unsigned blocks_per_region = 8;
inline constexpr unsigned max_blocks = 48;
inline constexpr unsigned max_sim_legs = 4;
inline constexpr Time ms = 1'000'000;

/// What a run ended with; `what` is empty when all invariants held.
struct Verdict {
  std::string what;
  std::uint64_t events = 0;
  std::uint64_t requests = 0;
  std::uint64_t crashes = 0;
  std::uint64_t zombies = 0;
  std::uint64_t copies = 0;
  std::uint64_t fences = 0;
};

/// The ways in which a leg can prove that old writes are over.
enum class FenceKind : std::uint8_t {
  epoch,  ///< bars older sessions on the server's side: always a proof, once it answers
  drain,  ///< only while the session lives; else none, and a person waits for the server
};

/// An op on its way to a leg, at it, and back.
struct SimOp {
  OpId id;
  std::uint32_t life = 0;  ///< of the engine that sent it
  std::uint32_t session = 0;
  std::uint64_t epoch = 0;
  mirror::Kind kind = mirror::Kind::read;
  unsigned leg = 0;
  Slot slot = 0;
  std::uint32_t request = 0;  ///< number of the request, 0 for the machine's own
  unsigned first = 0;
  unsigned count = 0;
  bool copy = false;
  bool landed = false;  ///< happened at the leg, or never will
  bool told = false;    ///< the engine knows an end
  bool fails = false;
  bool barred = false;  ///< a fence made sure that it never lands
  bool mute = false;    ///< its reply is lost
  std::array<Value, blocks_per_region> values{};
};

struct SimLeg {
  FenceKind fence = FenceKind::epoch;
  bool local = false;  ///< done in the caller's thread, never bounded
  Time latency = ms;
  std::array<Value, max_blocks> cache{};    ///< what a read finds
  std::array<Value, max_blocks> durable{};  ///< what a power loss leaves
  std::array<bool, max_blocks> copied{};    ///< its newest content came by a copy, not flushed
  bool session = false;                     ///< the engine's session works
  std::uint32_t number = 0;                 ///< of that session
  std::uint64_t epoch = 0;                  ///< that it was opened with
  std::uint64_t proof = 0;                  ///< highest epoch of a fence that returned proof
  bool vouched = false;                     ///< a person will wait for the server at the next fence
  Time hung_until = 0;
  Time away_until = 0;  ///< cannot be reached for fences and opens
  unsigned error_percent = 0;
  unsigned mute_percent = 0;
  std::vector<std::uint32_t> live;  ///< ops not landed, or whose end was not told
};

/// A request of a client.
struct Client {
  bool busy = false;
  bool kept = false;  ///< answered, but the slot is not free
  mirror::Kind kind = mirror::Kind::read;
  std::uint32_t number = 0;
  Value value = 0;
  unsigned first = 0;
  unsigned count = 0;
  Time begin = 0;
  bool alone = false;  ///< had its range for itself when it came: its time is bounded
  bool cancelled = false;
};

class World {
 public:
  World(std::uint64_t seed, bool trace);
  Verdict run();

 private:
  enum class Kind : std::uint8_t {
    land,
    reply,
    arrive,
    fault,
    heal,
    log_done,
    fence_done,
    open_done,
    tick,
    boot,
    start_again,
    all_ok,
    compared,
    lost,
    look,
    crash,
    suspend,
    resume,
    finish,
  };
  struct Item {
    Time at;
    std::uint64_t order;
    Kind kind;
    std::uint32_t a;
    std::uint32_t life;
    bool operator>(const Item& other) const {
      return at != other.at ? at > other.at : order > other.order;
    }
  };
  struct Violation {
    std::string what;
  };

  // script.cpp: what a seed means
  void design();
  void arrive();
  Slot free_client();
  void submit(Slot slot);
  void look();
  void fault();
  void person();
  void power_loss(unsigned leg);
  void cut(unsigned leg, bool at_once = false);
  void lost(unsigned leg);
  void heal();
  void finish();
  bool converged() const;

  // engine.cpp: the target's part, played
  void boot(bool first);
  void crash();
  void feed(Event event);
  void carry_out(const Action& action);
  void answered(const Action& action);
  void noticed(const Action& action);
  void commit();
  void log_done();
  void inline_batch();
  void all_ok(std::uint32_t which);
  void compare(const Action& action);
  bool requests_out() const;
  bool leg_out(unsigned leg) const;

  // legs.cpp
  void send(const Action& action);
  void land(std::uint32_t op);
  void reply(std::uint32_t op);
  void tell(std::uint32_t op, OpEnd end);
  void apply(SimOp& op);
  void keep_read(const SimOp& op);
  void settle_leg(unsigned leg, bool may_drop);
  void start_fence(const Action& action);
  void fence_done(unsigned leg);
  void start_open(const Action& action);
  void open_done(unsigned leg);
  void forget(std::uint32_t op);
  unsigned scrub_slot() const { return config_.max_requests + config_.copies; }

  // watch.cpp: the invariants
  void check_answer(const Client& client, const Action& action);
  void check_bound(const Client& client);
  void check_cleared(std::uint64_t region, unsigned leg);
  void check_regions();
  void check_region(std::uint64_t region);
  void check_in_sync(std::uint64_t region);
  void check_end();
  void check_closed();
  bool busy_block(unsigned block) const;
  void shadow_page(std::uint64_t offset, std::span<const std::byte> bytes);
  void take_shadow(const mirror::RegionLog& log);

  void at(Time when, Kind kind, std::uint32_t a = 0) {
    queue_.push({when, ++order_, kind, a, life_});
  }
  bool of_engine(Kind kind) const {
    return kind != Kind::land && kind != Kind::arrive && kind != Kind::fault &&
           kind != Kind::heal && kind != Kind::boot && kind != Kind::finish;
  }
  void happen(const Item& item);
  Time soon(Time most) { return now_ + 1 + random_.below(most); }
  void require(bool ok, const char* what) {
    if (!ok) throw Violation{what};
  }
  template <class... Args>
  void say(const char* format, const Args&... args);
  unsigned legs() const { return static_cast<unsigned>(legs_.size()); }

  const std::uint64_t seed_;
  const bool trace_;
  Random random_;
  Time now_ = 1;
  std::uint64_t order_ = 0;
  std::priority_queue<Item, std::vector<Item>, std::greater<>> queue_;
  std::uint32_t life_ = 0;
  Verdict verdict_;

  mirror::Config config_;
  mirror::LogIdentity identity_;
  unsigned blocks_ = 0;
  unsigned regions_ = 0;
  bool crashes_allowed_ = false;
  bool power_allowed_ = false;
  bool lossy_ = false;  ///< both: what was not flushed may go
  bool power_lost_ = false;
  bool untimed_ = false;  ///< no leg has a bound
  bool healing_ = false;
  bool finishing_ = false;
  unsigned look_at_ = 0;
  unsigned to_come_ = 0;
  unsigned fault_count_ = 0;

  std::unique_ptr<mirror::State> state_;
  bool serving_ = false;
  bool suspending_ = false;
  bool quiet_ = false;  ///< suspended: no op may go out
  bool stopped_ = false;
  int crash_after_ = -1;  ///< carries out that many actions more, then crashes
  Time tick_at_ = ~Time{0};
  mirror::Actions actions_;
  std::vector<SimLeg> legs_;
  std::vector<SimOp> ops_;
  std::vector<std::vector<std::uint32_t>> op_at_;              ///< [leg][OpId::index]: op, or none
  std::vector<std::array<Value, blocks_per_region>> buffers_;  ///< of the machine's slots
  std::array<Time, max_sim_legs> fence_started_{};
  std::array<std::uint64_t, max_sim_legs> fence_epoch_{};
  std::array<bool, max_sim_legs> fence_alive_{};
  std::array<std::vector<std::array<Value, blocks_per_region>>, max_sim_legs> read_values_;
  std::array<std::array<Value, blocks_per_region>, max_sim_legs> scrub_values_{};
  struct Inline {
    Slot slot;
    std::uint64_t serial;
    std::vector<std::uint32_t> ops;
    unsigned sent;
    bool ok;
  };
  std::vector<Inline> batch_sends_;  ///< of the actions of one visit
  std::vector<Inline> inline_done_;

  std::vector<Client> clients_;
  std::array<BlockHistory, max_blocks> history_;
  Value next_value_ = 1;
  std::uint32_t next_request_ = 1;

  // The log's medium, the commit on its way there, and what the medium durably says.
  std::vector<std::byte> medium_;
  struct Pending {
    std::uint64_t offset;
    std::array<std::byte, mirror::log_page_size> bytes;
  };
  std::vector<Pending> writes_;
  std::vector<mirror::LogWrite> batch_;
  bool log_written_ = false;  ///< its first commit was durable
  bool legs_equal_ = true;    ///< when the mirror was made
  bool commit_fails_ = false;
  unsigned log_error_percent_ = 0;
  Time log_latency_ = ms;
  LegMask shadow_members_ = 0;
  std::uint64_t shadow_dirty_ = 0;  ///< a bit per region
  std::array<std::uint64_t, mirror::max_legs> shadow_stale_{};
};

}  // namespace blockloom::sim
