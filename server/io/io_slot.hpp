#pragma once

#include <array>
#include <atomic>
#include <condition_variable>
#include <memory>
#include <mutex>
#include <string>

#include "server/base/gate.hpp"
#include "server/io/deadline_wheel.hpp"
#include "server/io/io_client.hpp"
#include "server/io/lane.hpp"
#include "server/leg/remote_leg.hpp"

/// What an IoClient is made of; private to server/io.
namespace blockloom {

/// A leg in its place. Lives as long as anything is out on it.
struct IoClient::Place {
  std::uint32_t number = 0;
  std::shared_ptr<Leg> leg;
  LegOptions options;
  std::unique_ptr<Lane> lane;   // null: from the caller's thread
  bool here = false;            // answers inside the call
  RemoteLeg* remote = nullptr;  // the leg's, if it has a peer

  std::atomic<std::uint64_t> pending{0}, late{0}, late_bytes{0};
};

/// One region on its way. Protected by the slot's mutex, but for `io` and `item`, which are the
/// leg's or the lane's while it is out.
struct IoClient::Part {
  Io io;
  Lane::Item item;
  Slot* slot = nullptr;
  std::shared_ptr<Place> place;
  IoRegion region;
  std::uint32_t index = 0;
  std::uint64_t start_ns = 0;
  RegionState state = RegionState::pending;
  bool out = false;      // the leg or the lane has it
  bool in_lane = false;  // went that way
  bool telling = false;  // a first notice that is not final is being told
  bool ended = false;    // meanwhile it ended: the teller tells that too
  Errc end_status = Errc::ok;
  bool all_told = false;    // nothing is left to tell
  bool unresolved = false;  // the leg gave it up, and it may still land: only a fence ends it
};

/// A request. Its memory is never given back while the client's core lives, so that a stale handle
/// finds a generation that is not its own.
struct IoClient::Slot {
  std::mutex mutex;  // protects what follows, but for `references`
  std::uint32_t index = 0;
  std::uint32_t generation = 1;  // of the present or next request
  bool used = false;
  bool mute_second = false;
  bool timed = false;  // the timer may be armed
  bool cancel_on_timeout = false;
  std::uint32_t count = 0;    // of regions
  std::uint32_t waiting = 0;  // regions that are pending
  IoNotify notify = nullptr;
  void* context = nullptr;
  IoBufferRef buffer;
  std::array<Part, max_io_legs> parts;
  std::size_t shard = 0;

  std::atomic<std::uint32_t> references{0};  // the submitter, each region that is out, the timer
  DeadlineWheel::Node timer;
  std::shared_ptr<Core> core;  // while used
  Slot* next_free = nullptr;

  IoHandle handle() const noexcept { return {index, generation}; }
};

/// What a client has, and what is late lives on in.
struct IoClient::Core : std::enable_shared_from_this<IoClient::Core> {
  static constexpr std::size_t chunk_slots = 64;
  static constexpr std::size_t most_chunks = 1024;
  using Chunk = std::array<Slot, chunk_slots>;

  Core(const Options& o, DeadlineWheel& w) : options(o), wheel(w) {}
  ~Core();

  Slot* acquire() noexcept;
  bool grow_locked() noexcept;
  void release(Slot& slot) noexcept;
  void unref(Slot& slot) noexcept;
  Slot* find(IoHandle handle) noexcept;  ///< with a reference; null: it names nothing
  template <class Visit>
  void each_used(Visit visit);

  bool valid(const IoRequest& request) const noexcept;
  bool runs_here(const IoRequest& request) const noexcept;
  void run_here(const IoRequest& request, IoResults& results) const noexcept;
  Submit refuse(const IoRequest& request, Errc why, IoResults& results) const noexcept;
  Submit send(const IoRequest& request, IoResults& results, IoHandle* handle,
              bool mute_second) noexcept;
  void fill(Slot& slot, const IoRequest& request, bool mute_second) noexcept;
  void send_part(Part& part) noexcept;

  static void leg_ended(Io& io) noexcept;
  static void lane_done(Lane::Item& item) noexcept;
  static void timer_fired(DeadlineWheel::Node& node) noexcept;
  void deadline_passed(Slot& slot, TimePoint now) noexcept;
  void ended(Part& part, Errc status) noexcept;
  void leave_pending_locked(Slot& slot, Part& part, RegionState state) noexcept;
  void resolved_locked(Part& part) noexcept;
  bool give_up(Slot& slot, Part& part, RegionState state, bool take_unsent) noexcept;
  bool fence_part(Slot& slot, Part& part, Errc status) noexcept;
  bool keep_unresolved_locked(Part& part) noexcept;
  void forget_unresolved(Slot& slot) noexcept;
  void tell(const Slot& slot, const IoNotice& notice) noexcept;
  void settled(Slot& slot, bool none_waits) noexcept;

  const Options options;
  DeadlineWheel& wheel;  // not touched once `telling` is closed
  std::shared_ptr<IoBufferPool> buffers;
  std::array<std::shared_ptr<Place>, max_io_legs> places;
  IoGate gate;     // requests that are pending
  IoGate telling;  // notices and timers; closed when the client is gone

  mutable std::mutex mutex;  // protects what follows
  std::condition_variable quiet;
  Slot* free = nullptr;
  std::size_t in_use = 0;
  std::size_t chunk_count = 0;
  std::array<std::unique_ptr<Chunk>, most_chunks> chunks;  // those that are there never change
};

}  // namespace blockloom
