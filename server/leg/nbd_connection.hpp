#pragma once

#include <atomic>
#include <condition_variable>
#include <cstdint>
#include <memory>
#include <mutex>
#include <utility>
#include <vector>

#include "server/base/clock.hpp"
#include "server/base/error.hpp"
#include "server/leg/io.hpp"
#include "server/leg/nbd_handle.hpp"
#include "server/leg/remote_leg.hpp"
#include "server/leg/waiting_caller.hpp"

struct pollfd;

namespace blockloom {

class NbdConnection;

/// One Io on its way over a connection: one NBD command, or several.
struct NbdTask {
  NbdConnection* connection = nullptr;
  Io* io = nullptr;
  std::uint64_t deadline_ns = 0;  ///< 0: none
  std::uint64_t position = 0;     ///< bytes of the Io that commands were made of
  std::uint64_t received = 0;     ///< bytes of a read that came in chunks
  std::uint64_t extents_end = 0;  ///< bytes of the Io that extents were found for
  bool single = false;            ///< the read is one command
  bool sent = false;
  bool flushing = false;  ///< the flush that stands for FUA is what is out

  // Touched by libnbd's callbacks, under the handle's lock.
  std::atomic<std::uint32_t> commands{0};  ///< out, and one for a sender of several
  std::atomic<int> error{0};               ///< the first; ENOTCONN wins over the server's
  NbdTask* next_done = nullptr;

  NbdTask* older = nullptr;  ///< of all tasks of the connection
  NbdTask* newer = nullptr;
  NbdTask* next_unsent = nullptr;
  std::uint64_t writes_before = 0;  ///< a flush: what it covers (NbdWrites::completed)
};

/// Tasks in the order in which their commands ended.
class NbdTaskList {
 public:
  bool empty() const noexcept { return first_ == nullptr; }
  void push(NbdTask& task) noexcept {
    task.next_done = nullptr;
    (first_ != nullptr ? last_->next_done : first_) = &task;
    last_ = &task;
  }
  NbdTask& pop() noexcept { return *std::exchange(first_, first_->next_done); }

 private:
  NbdTask* first_ = nullptr;
  NbdTask* last_ = nullptr;
};

/// What the connections of a leg have written, so that a lost link can tell whether a server may
/// have lost something with it. Writes with FUA do not count.
struct NbdWrites {
  std::atomic<std::uint64_t> completed{0};
  std::atomic<std::uint64_t> flushed{0};  ///< of those
};

/// What a connection tells its leg. No lock of the connection is held.
class NbdConnectionOwner {
 public:
  virtual ~NbdConnectionOwner() = default;
  /// The Io has ended; the leg's Leg::finish. It may free everything, this leg's last owner too.
  virtual void ended(Io& io, Errc status) noexcept = 0;
  /// The link is down, and all that was on it has ended or waits to be sent again.
  virtual void lost(NbdConnection& connection, const Error& reason) noexcept = 0;
  /// A request that modifies is about to end with end_unknown. Under the connection's lock.
  virtual void write_is_late() noexcept = 0;
  /// There is something to read, and nobody reads: the leg's own thread has to. Takes no lock.
  virtual void reader_wanted() noexcept = 0;
  virtual NbdWrites& writes() noexcept = 0;
};

/// One socket to an NBD server, many requests in flight, any number of submitting threads.
///
/// A submitter sends from its own thread. Replies are read by one thread at a time, the reader:
/// - a WaitingCaller that has nothing else to do until its own reply comes. When it has it, it
///   makes another waiting caller the reader, or
/// - the leg's own thread, when requests are out and none of the callers waits.
/// The reader runs the completions of whatever it reads, and is the only one that closes the
/// handle.
class NbdConnection final : public CallerHelp, public std::enable_shared_from_this<NbdConnection> {
 public:
  /// More requests at a time end with Errc::limit.
  static constexpr std::size_t max_tasks = 8192;

  /// What happens without a link to what is submitted, and to what a lost link had in flight.
  enum class Mode : std::uint8_t {
    /// Plain use. Requests wait for the next link until their deadline; those that read are sent
    /// again; those that write and were sent end with end_unknown.
    hold,
    /// Under control. Requests are refused with Errc::io without a link; what was never sent ends
    /// with Errc::cancelled, what was sent with end_unknown.
    strict,
    /// As strict, and nothing new is taken even while there is a link (a fence, the end).
    barred,
  };

  NbdConnection(std::shared_ptr<NbdConnectionOwner> owner, WakeFd wake) noexcept
      : owner_(std::move(owner)), wake_(std::move(wake)) {}
  ~NbdConnection() override;

  /// `deadline_ns`: 0: none.
  Submit submit(Io& io, std::uint64_t now_ns, std::uint64_t deadline_ns) noexcept;
  Cancel cancel(Io& io) noexcept;

  /// Takes a new link over, in this mode; what waits is sent. Only while not up().
  void come_up(NbdLink link, Mode mode) noexcept;
  bool up() const noexcept { return up_.load(std::memory_order_acquire); }
  /// up(), and the server has not hung up, as far as this side knows.
  bool alive() const noexcept;

  void set_mode(Mode mode) noexcept;
  /// Ends the link, with this reason, as soon as the reader has seen its end. Nothing if down.
  void drop(const Error& reason) noexcept;
  /// Tells the server in order that nothing more comes (NBD_CMD_DISC).
  void say_goodbye() noexcept;
  /// Ends what waits to be sent with this status.
  void fail_unsent(Errc status) noexcept { fail_unsent_before(for_all, status); }

  /// Ends what waits past its deadline; drops the link if something was sent and is past it.
  void expire(std::uint64_t now_ns, const Error& reason) noexcept;
  /// No deadline is later than this any more.
  void hurry(std::uint64_t deadline_ns) noexcept;

  struct Load {
    std::size_t tasks = 0, sent = 0, writes_sent = 0;
    std::uint64_t unknown_writes = 0;  ///< that take_unknown_writes() would give
  };
  Load load() const noexcept;
  bool idle() const noexcept;  ///< no tasks

  /// Requests that modify and whose end became unknown, since the last call.
  std::uint64_t take_unknown_writes() noexcept { return unknown_writes_.exchange(0); }

  // --- for the leg's own thread --------------------------------------------------------------

  /// True: the thread is the reader now. `watch`: even if nothing is out, to see the link's end.
  bool begin_reading(bool watch) noexcept;
  void fill(pollfd& entry) const noexcept;
  void handle(short events) noexcept;
  /// True: it is not the reader any more: a waiting caller takes over, or the link is down.
  bool end_reading() noexcept;

  // --- CallerHelp ------------------------------------------------------------------------------

  void wait(WaitingCaller& caller) noexcept override;
  void decline() noexcept override;
  void interrupt(WaitingCaller& caller) noexcept override;

  /// By libnbd's callbacks: all commands of a task have ended.
  void push_done(NbdTask& task) noexcept;

 private:
  using Lock = std::unique_lock<std::mutex>;
  NbdTask* new_task(Io& io, std::uint64_t deadline_ns) noexcept;
  static constexpr std::uint64_t for_all = ~std::uint64_t{0};
  bool grow() noexcept;
  void free_task(NbdTask& task) noexcept;
  void push_unsent(NbdTask& task) noexcept;
  void remove_unsent(NbdTask& task) noexcept;
  void fail_unsent_before(std::uint64_t deadline_ns, Errc status) noexcept;

  bool send(NbdTask& task) noexcept;
  bool issue(NbdTask& task, std::uint64_t at, std::uint64_t length) noexcept;
  bool has_more(const NbdTask& task) const noexcept;
  bool send_more(NbdTask& task) noexcept;
  Errc status_of(const NbdTask& task) const noexcept;
  void sent() noexcept;
  void send_waiting() noexcept;

  void wake_reader() noexcept;
  void read_as(WaitingCaller& caller) noexcept;
  void pass_on_reading() noexcept;
  void leave() noexcept;
  void settle(const Error& reason) noexcept;
  void take_done(bool dying) noexcept;
  void run_over() noexcept;
  Errc finish_task(const NbdTask& task) noexcept;
  void die(Error reason) noexcept;
  bool may_retry(const NbdTask& task, std::uint64_t now_ns) const noexcept;

  const std::shared_ptr<NbdConnectionOwner> owner_;  // until the leg lets the connection go
  const WakeFd wake_;                                // for a reading caller

  std::atomic<NbdTask*> done_{nullptr};                  // ended commands, newest first
  std::atomic<WaitingCaller*> polling_caller_{nullptr};  // the reader, while it may sleep in poll()
  std::atomic<std::uint64_t> unknown_writes_{0};
  std::atomic<bool> up_{false};      // handle_ is there; changed under the mutex
  std::atomic<unsigned> unsent_{0};  // how many wait to be sent; changed under the mutex

  // The reader's own.
  NbdTaskList over_;     // their Ios end next
  NbdTaskList aborted_;  // sent, and the link is gone: their end is unknown

  mutable std::mutex
      mutex_;  // protects what follows; handle_ and facts_ also stay while users_ > 0
  std::condition_variable no_users_;
  std::unique_ptr<nbd_handle, NbdHandleCloser> handle_;  // null: down
  UniqueFd socket_;
  NbdExport facts_;
  Mode mode_ = Mode::hold;
  bool blocked_ = false;                  // the socket is full; what is submitted waits here
  bool dying_ = false;                    // the reader closes the handle
  bool reading_ = false;                  // there is a reader
  bool leg_reads_ = false;                // it is the leg's own thread
  unsigned users_ = 0;                    // threads that send
  unsigned callers_ = 0;                  // promised to help, and not gone yet
  std::vector<WaitingCaller*> sleepers_;  // those that sleep until told or nudged
  Error drop_reason_{Errc::ok, {}};
  std::uint64_t last_used_ns_ = 0;

  NbdTask* oldest_ = nullptr;  // all tasks
  NbdTask* newest_ = nullptr;
  NbdTask* first_unsent_ = nullptr;
  NbdTask* last_unsent_ = nullptr;
  std::size_t tasks_ = 0;
  NbdTask* free_ = nullptr;  // by `newer`
  std::vector<std::unique_ptr<NbdTask[]>> chunks_;
};

}  // namespace blockloom
