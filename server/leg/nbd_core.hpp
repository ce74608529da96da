#pragma once

#include <atomic>
#include <condition_variable>
#include <cstdint>
#include <memory>
#include <mutex>
#include <optional>
#include <string>
#include <thread>
#include <vector>

#include "server/base/backoff.hpp"
#include "server/leg/nbd_connection.hpp"
#include "server/leg/nbd_handle.hpp"
#include "server/leg/nbd_uri.hpp"
#include "server/leg/remote_leg.hpp"

namespace blockloom {

/// Between two tries to connect (Backoff).
inline constexpr Duration nbd_first_pause = std::chrono::milliseconds(50);
inline constexpr Duration nbd_longest_pause = std::chrono::seconds(5);

/// An NBD leg's links, and the two threads that look after them; both start with the first need.
/// - "bl-nbd-io" reads what no waiting caller reads, and watches idle links and deadlines.
/// - "bl-nbd-link" connects, fences, and tells the listener.
/// It may outlive its leg by what still runs on these threads, when the leg's last owner lets go
/// of it there.
class NbdCore final : public NbdConnectionOwner, public std::enable_shared_from_this<NbdCore> {
 public:
  using Finish = void (*)(Io&, Errc) noexcept;

  /// Connects once, in the caller's thread. Errors name the leg and the server.
  static Result<std::shared_ptr<NbdCore>> open(std::string leg, NbdUri uri, bool read_only,
                                               Finish finish);

  const NbdExport& facts() const noexcept { return facts_; }
  Submit submit(Io& io) noexcept;
  /// A plain leg's: is there a link?
  Result<void> ready() const;
  /// What waits ends with this status, and nothing waits any more; what is sent has two seconds.
  void release_held(Errc status) noexcept;

  // RemoteLeg's (nbd_control.cpp).
  Result<void> take_control(RemoteLeg& self, LinkListener& listener);
  void fence(std::uint64_t epoch, FenceScope scope, TimePoint deadline, RemoteLeg::FenceDone done);
  void open_session(std::uint64_t epoch, TimePoint deadline, RemoteLeg::OpenDone done);
  Cancel cancel(Io& io) noexcept;
  void abandon(const Error& reason) noexcept;
  std::string link_state() const;

  /// Drops the links, ends everything, joins the threads (but one that calls this). Idempotent.
  void stop() noexcept;
  /// After stop(), and when nobody else calls any more: frees the connections.
  void let_go() noexcept { connections_.clear(); }

  // NbdConnectionOwner
  void ended(Io& io, Errc status) noexcept override { finish_(io, status); }
  void lost(NbdConnection& connection, const Error& reason) noexcept override;
  void write_is_late() noexcept override;
  void reader_wanted() noexcept override { io_wake_.wake(); }
  NbdWrites& writes() noexcept override { return writes_; }

 private:
  using Lock = std::unique_lock<std::mutex>;
  using Connections = std::vector<std::shared_ptr<NbdConnection>>;

  /// Who looks after the links.
  enum class Phase : std::uint8_t {
    plain,    ///< this leg does: it reconnects
    closed,   ///< a mirror does, and there is no session
    session,  ///< a mirror does, and I/O flows
  };
  /// Whether the server knows epochs.
  enum class Kind : std::uint8_t { unknown, ours, foreign };

  struct Fence {
    std::uint64_t epoch;
    FenceScope scope;
    TimePoint deadline;
    RemoteLeg::FenceDone done;
  };
  struct Open {
    std::uint64_t epoch;
    TimePoint deadline;
    RemoteLeg::OpenDone done;
  };
  /// What became of an attempt to open an epoch.
  struct EpochAttempt {
    enum class End : std::uint8_t { proof, foreign, outdated, failed } end;
    std::optional<NbdLink> link;
    Error reason{Errc::ok, {}};
  };

  NbdCore(std::string leg, NbdUri uri, bool read_only, WakeFd io_wake, WakeFd abort, Finish finish);

  // The io thread (nbd_core.cpp).
  bool start_threads() noexcept;
  void serve(const Connections& connections);
  bool tick(const Connections& connections) noexcept;

  // The link thread. Each is called with the lock, and gives it up while it waits.
  void look_after_links();
  void reconnect(Lock& lock, Backoff& backoff);
  void tell_lost(Lock& lock);
  void run_fence(Lock& lock, Fence fence);
  FenceResult prove(Lock& lock, const Fence& fence);
  bool quiet() const noexcept;
  void close_links(Lock& lock);
  EpochAttempt open_epoch(Lock& lock, std::uint64_t epoch, TimePoint deadline);
  void run_open(Lock& lock, Open open);
  Result<std::vector<NbdLink>> make_links(Lock& lock, const Open& open);
  Result<NbdLink> first_link(Lock& lock, const Open& open);
  Result<NbdLink> connect(Lock& lock, const std::string& name, TimePoint deadline);
  bool pause(Lock& lock, TimePoint until);

  Result<void> check(const NbdExport& facts) const;
  void drop_all(const Error& reason) noexcept;
  void set_mode_of_all(NbdConnection::Mode mode) noexcept;
  bool superseded() const noexcept { return stopping_ || fence_ || open_; }
  std::string about(std::string_view what) const;

  const std::string leg_;  // its URI, for messages
  const NbdUri uri_;
  const std::string storage_;
  const bool read_only_;
  const Finish finish_;
  const WakeFd io_wake_;     // the io thread's
  const WakeFd abort_;       // cuts the link thread's attempts short
  NbdExport facts_;          // of the first link
  Connections connections_;  // fixed from open() to let_go()
  NbdWrites writes_;
  std::atomic<bool> controlled_{false};
  std::atomic<bool> started_{false};
  std::atomic<bool> ticking_{false};
  std::atomic<bool> stopping_io_{false};
  std::atomic<bool> owed_flush_{false};  // writes were lost with a link: the next flush says so
  std::atomic<bool> released_{false};

  mutable std::mutex mutex_;  // protects what follows
  std::condition_variable changed_;
  bool stopping_ = false;
  Phase phase_ = Phase::plain;
  Kind kind_ = Kind::unknown;
  std::size_t live_links_ = 0;  // that lost() was not called for yet
  std::uint64_t losses_ = 0;    // calls of lost()
  std::optional<Error> lost_;   // a link was lost, or never there, and nobody was told
  TimePoint up_since_{};
  std::optional<Fence> fence_;  // what the link thread shall do next
  std::optional<Open> open_;
  std::optional<NbdLink> proof_;  // the link whose handshake was the proof
  std::uint64_t highest_epoch_ = 0;
  std::uint64_t used_epoch_ = 0;      // of the last session
  std::uint64_t proved_epoch_ = 0;    // 0: none since the last fence() began
  std::uint64_t unknown_writes_ = 0;  // since the last proof
  std::string state_ = "connected";   // for link_state()
  RemoteLeg* self_ = nullptr;
  LinkListener* listener_ = nullptr;

  std::thread io_thread_, link_thread_;
};

}  // namespace blockloom
