#pragma once

#include <atomic>
#include <cstdint>
#include <functional>
#include <list>
#include <memory>
#include <mutex>
#include <optional>
#include <string>
#include <string_view>
#include <thread>
#include <vector>

#include "server/base/backoff.hpp"
#include "server/base/error.hpp"
#include "server/leg/iscsi_connector.hpp"
#include "server/leg/iscsi_request.hpp"
#include "server/leg/iscsi_session.hpp"
#include "server/leg/iscsi_uri.hpp"
#include "server/leg/leg.hpp"
#include "server/leg/remote_leg.hpp"
#include "server/leg/scsi_disk.hpp"

namespace blockloom {

/// An iSCSI leg's session, and the thread that looks after it ("iscsi-leg"), which starts with the
/// first need. It may outlive its leg by what still runs on this thread, when the leg's last owner
/// lets go of it there.
class IscsiCore final : public std::enable_shared_from_this<IscsiCore> {
 public:
  static constexpr std::size_t max_requests = 4096;
  using Finish = void (*)(Io&, Errc) noexcept;

  /// `name` is the URI as people may see it. The traits are those that a probe found.
  IscsiCore(IscsiUri uri, std::string name, std::string initiator, disk::Traits traits,
            bool read_only, Finish finish);
  ~IscsiCore();
  IscsiCore(const IscsiCore&) = delete;
  IscsiCore& operator=(const IscsiCore&) = delete;

  Bytes size() const noexcept { return size_; }
  bool read_only() const noexcept { return read_only_; }
  Submit submit(Io& io) noexcept;

  // RemoteLeg's (iscsi_core_control.cpp).
  RemoteLeg::Traits traits() const noexcept;
  Result<void> take_control(RemoteLeg& self, LinkListener& listener);
  void fence(std::uint64_t epoch, FenceScope scope, TimePoint deadline, RemoteLeg::FenceDone done);
  void open_session(std::uint64_t epoch, TimePoint deadline, RemoteLeg::OpenDone done);
  Cancel cancel(Io& io) noexcept;
  void abandon(const Error& reason) noexcept;
  void release() noexcept;
  std::string link_state() const;

  /// Ends everything, logs out, and joins the thread (but if that calls this). Idempotent.
  void stop() noexcept;

 private:
  using Lock = std::unique_lock<std::mutex>;
  using Requests = std::list<IscsiRequest>;
  enum class Issue { issued, exhausted, blocked, failed };
  struct Verdict {
    bool again = false;
    Errc status = Errc::ok;
    Duration pause{};
  };

  /// What a fence has come to (iSCSI's ladder).
  struct Fence {
    enum class Stage { begin, aborting, lun_reset, target_reset, settling, relogin };
    std::uint64_t epoch = 0;
    FenceScope scope = FenceScope::own;
    TimePoint deadline{};
    RemoteLeg::FenceDone done;  // empty: it goes on behind
    Stage stage = Stage::begin;
    TimePoint step_deadline = TimePoint::max();
    std::uint32_t tag = 0;
    bool asked = false;  ///< settling: the LUN was asked what it is
    std::string trouble;
  };
  struct Opening {
    std::uint64_t epoch = 0;
    TimePoint deadline{};
    RemoteLeg::OpenDone done;
  };

  // Requests and commands (iscsi_core_commands.cpp, iscsi_core_answers.cpp). Under the lock.
  std::optional<Errc> without_commands(Io& io) const noexcept;
  IscsiRequest& add_request(Io& io);
  void pump() noexcept;
  Issue issue(IscsiRequest& request);
  bool conflicts(const IscsiRequest& request) const noexcept;
  void issue_transfer(IscsiRequest& request);
  void issue_edges(IscsiRequest& request);
  bool issue_trim(IscsiRequest& request);
  bool issue_write_same(IscsiRequest& request);
  void issue_lba_status(IscsiRequest& request);
  IscsiCommand& new_command(IscsiRequest& request, IscsiCommand::Kind kind, std::uint64_t at,
                            std::uint64_t bytes);
  void begin(IscsiCommand& command) noexcept;
  void drain() noexcept;
  void command_ended(IscsiCommand& command) noexcept;
  Verdict judge(IscsiCommand& command) noexcept;
  Verdict judge_sense(IscsiCommand& command, const disk::Sense& sense) noexcept;
  Verdict unsupported(IscsiCommand& command) noexcept;
  Verdict again(IscsiCommand& command, unsigned most, Duration pause) const noexcept;
  void take_data(IscsiCommand& command) noexcept;
  void take_lba_status(IscsiCommand& command) noexcept;
  void advance(IscsiRequest& request) noexcept;
  void end_request(IscsiRequest& request) noexcept;
  void make_ready(IscsiRequest& request) noexcept;
  bool stop_request(IscsiRequest& request) noexcept;
  void stop_requests() noexcept;
  bool may_log() noexcept;
  void note_event(const disk::Sense& sense) noexcept;
  void capacity_ended(const IscsiCommand& command) noexcept;
  bool aligned(std::uint64_t value) const noexcept { return value % disk_.block_size == 0; }
  std::uint32_t blocks(std::uint64_t bytes) const noexcept {
    return static_cast<std::uint32_t>(bytes / disk_.block_size);
  }

  // The link (iscsi_core_link.cpp). Under the lock, on the leg's thread.
  void start_thread();
  void poke() const noexcept;
  bool must_poke() const noexcept;
  void run() noexcept;
  TimePoint work() noexcept;
  bool run_finished(Lock& lock) noexcept;
  void wait(Lock& lock, TimePoint until) noexcept;
  void connect_step(TimePoint now) noexcept;
  void connector_step(Lock& lock, short revents) noexcept;
  Result<void> check_same(const disk::Traits& found) const;
  void session_up(TimePoint now) noexcept;
  void session_ended(TimePoint now) noexcept;
  void expire(TimePoint now) noexcept;
  void keep_alive(TimePoint now) noexcept;
  Duration patience() const noexcept;
  TimePoint next_wake(TimePoint now) const noexcept;
  bool wants_session() const noexcept;
  void say_goodbye(Lock& lock) noexcept;

  // Control (iscsi_core_control.cpp). Under the lock, but for the first.
  LinkListener* listener_now() const noexcept;
  void control_step(TimePoint now) noexcept;
  void fence_step(TimePoint now) noexcept;
  void fence_begin(TimePoint now) noexcept;
  void fence_reset(Fence::Stage stage) noexcept;
  void fence_answered(iscsi::TaskResponse response) noexcept;
  void fence_proven() noexcept;
  void end_fence(Proof proof, std::string reason) noexcept;
  void end_opening(Result<void> result) noexcept;
  void take_managed(const IscsiSession::Managed& managed) noexcept;
  void abort_command(IscsiCommand& command) noexcept;
  bool every_answer_is_in() const noexcept;
  void forget_unanswered() noexcept;

  const IscsiUri uri_;
  const std::string name_;
  const std::string storage_;
  const std::string initiator_;
  const Isid isid_;
  const Bytes size_;
  const bool read_only_;
  const Finish finish_;
  const int event_fd_;

  mutable std::mutex mutex_;  // protects what follows
  disk::Traits disk_;
  std::uint64_t most_bytes_ = 0;  // of a READ or WRITE
  bool can_write_same_ = true, can_lba_status_ = true, can_synchronize_ = true;

  Requests active_, finished_, idle_;
  IscsiRequest *ready_ = nullptr, *ready_last_ = nullptr;
  std::size_t unaligned_ = 0;  // of the active ones
  std::vector<IscsiCommand> commands_;
  IscsiCommand* free_ = nullptr;
  std::vector<IscsiCommand*> waiting_;  // to be sent again
  IscsiCommand capacity_;
  bool check_capacity_ = false;
  // Writes that were answered, and how many of them were when the last good flush began: what lies
  // between may be in the disk's cache only.
  std::uint64_t answered_writes_ = 0, flushed_writes_ = 0;
  bool flush_fails_ = false;  // some of these may be lost
  TimePoint logged_{};

  std::unique_ptr<IscsiSession> session_;
  bool flowing_ = false;          // requests may be sent on it
  bool unresolved_ = false;       // commands that modify were sent, and nobody knows their end
  std::uint32_t settle_tag_ = 0;  // plain use: of the LUN RESET that resolves them
  TimePoint pinged_{};            // zero: no ping is out
  TimePoint next_try_{};
  Backoff backoff_;
  std::string last_error_;
  bool was_up_ = false;

  bool controlled_ = false, open_ = false;
  RemoteLeg* self_ = nullptr;
  LinkListener* listener_ = nullptr;
  std::uint64_t epoch_ = 0;  // the highest that was named
  std::optional<std::uint64_t> proven_epoch_;
  FenceScope proven_scope_ = FenceScope::own;
  std::optional<Fence> fence_;
  std::optional<Opening> opening_;
  std::unique_ptr<DiskProbe> probe_;              // after a reset
  std::vector<std::function<void()>> callbacks_;  // run after what is finished, without the lock

  bool stopping_ = false;
  bool left_alone_ = false;  // the thread ends by itself
  short polled_ = 0;
  TimePoint wake_{};
  std::thread thread_;

  std::unique_ptr<IscsiConnector> connector_;  // the thread's alone
};

}  // namespace blockloom
