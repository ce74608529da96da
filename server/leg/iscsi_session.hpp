#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <deque>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include <sys/socket.h>
#include <sys/uio.h>

#include "proto/iscsi/digest.hpp"
#include "proto/iscsi/pdu.hpp"
#include "server/base/clock.hpp"
#include "server/base/error.hpp"
#include "server/leg/iscsi_login.hpp"
#include "server/leg/scsi_disk.hpp"

namespace blockloom {

/// One SCSI command on its way through a session. Belongs to its submitter, who keeps it and the
/// data until the session gives it back (IscsiSession::take_ended).
struct IscsiTask {
  enum class Direction : std::uint8_t { none, in, out };
  enum class End : std::uint8_t {
    answered,  ///< status and sense hold
    unsent,    ///< it never left, or the target proved that it was aborted
    unknown,   ///< it left, and the session ended before an answer
  };

  // The submitter's.
  disk::Cdb cdb{};
  Direction direction = Direction::none;
  std::byte* data = nullptr;
  std::uint32_t length = 0;

  // The answer.
  End end = End::answered;
  std::uint8_t response = 0;  ///< 0: the command completed at the target; else the target failed
  std::uint8_t status = 0;    ///< SAM status
  std::uint8_t sense_length = 0;
  std::array<std::uint8_t, 64> sense{};
  std::uint32_t transferred = 0;  ///< in: bytes that came

 private:
  friend class IscsiSession;
  struct Burst {
    std::uint32_t ttt = 0, offset = 0, end = 0, data_sn = 0;
  };
  enum class State : std::uint8_t { idle, queued, sent, ended };

  State state_ = State::idle;
  bool final_status_ = false;
  std::uint8_t pins_ = 0;  // PDUs of it in the batch that is being sent
  std::uint8_t burst_count_ = 0;
  std::uint32_t tag_ = 0, cmd_sn_ = 0;
  std::uint32_t data_sn_ = 0, r2t_sn_ = 0;
  std::array<Burst, 9> bursts_;  // what the target asked for, and the unsolicited one
  IscsiTask* next_ = nullptr;
};

/// One iSCSI session with its only connection (RFC 7143; error recovery level 0): connects, logs
/// in, carries commands, task management and pings. Everything that comes from the target is
/// checked before it is used; what breaks the protocol ends the session.
///
/// Not for several threads at once: the leg's lock is around it. It never blocks.
class IscsiSession {
 public:
  enum class State : std::uint8_t { connecting, login, ready, closed };

  /// The URI outlives the session.
  IscsiSession(const IscsiUri& uri, std::string initiator, Isid isid);
  /// Closes hard. No tasks are left inside: they were taken back by close() and take_ended().
  ~IscsiSession();
  IscsiSession(const IscsiSession&) = delete;
  IscsiSession& operator=(const IscsiSession&) = delete;

  void connect(const sockaddr_storage& address, socklen_t length);

  State state() const noexcept { return state_; }
  /// Why it was closed.
  const Error& error() const noexcept { return error_; }
  /// Where the target says that it is now, if the login was redirected.
  const std::string& moved_to() const noexcept { return moved_to_; }
  const IscsiParameters& parameters() const noexcept { return parameters_; }

  int fd() const noexcept { return fd_; }
  /// What to poll for.
  short events() const noexcept;
  /// Does what the events allow; bounded, so that others get their turn.
  void handle(short revents) noexcept;
  /// Sends what can be sent now.
  void send() noexcept;

  /// Whether start() takes another task.
  bool has_room() const noexcept { return !free_.empty(); }
  /// Puts a task in line; send() sends it. Only in State::ready, with room.
  void start(IscsiTask& task) noexcept;
  /// Takes a task back that was not sent. False: it was.
  bool take_back(IscsiTask& task) noexcept;
  /// A task that has ended, in order; null: none.
  IscsiTask* take_ended() noexcept;
  /// Tasks that are inside, ended ones included.
  std::size_t tasks() const noexcept { return slots_.size() - free_.size(); }
  /// Tasks that were sent and not answered.
  std::size_t unanswered() const noexcept;

  /// Task management (11.5); the answer comes with take_managed(). A reference only for
  /// abort_task. Returns the tag that the answer will have; 0: too many at a time.
  std::uint32_t manage(iscsi::TaskFunction function, const IscsiTask* reference = nullptr) noexcept;
  struct Managed {
    std::uint32_t tag = 0;
    iscsi::TaskResponse response = iscsi::TaskResponse::rejected;
  };
  std::optional<Managed> take_managed() noexcept;
  /// Ends a task that was aborted with success.
  void forget(IscsiTask& task) noexcept;

  /// NOP-Out. Whatever comes next from the target counts as its answer.
  void ping() noexcept;
  TimePoint last_received() const noexcept { return last_received_; }
  /// Logs out; the session closes when the target answers.
  void logout() noexcept;

  /// Sense data that came without a command (asynchronous message); then none.
  std::optional<disk::Sense> take_event() noexcept;

  /// Ends the session now: sent tasks end as unknown, the others as unsent.
  void close(Error reason) noexcept;

 private:
  using Bhs = iscsi::Bhs;
  static constexpr std::size_t batch_pdus = 32;
  static constexpr std::size_t batch_bytes = 512 * 1024;
  static constexpr std::size_t receive_buffer = 64 * 1024;
  static constexpr std::size_t max_control = 64;

  struct Outgoing {  // a PDU of the batch: what surrounds the data
    std::array<std::uint8_t, iscsi::bhs_size + iscsi::digest_size> header;
    std::array<std::uint8_t, 3 + iscsi::digest_size> trailer;
    IscsiTask* task = nullptr;
  };
  struct Control {
    Bhs header;
    std::string data;
  };

  // Sending.
  void send_login();
  bool push_control(Control control);
  void compose();
  bool batch_has_room() const noexcept;
  void add_pdu(Bhs& header, const void* data, std::uint32_t length, IscsiTask* task) noexcept;
  void add_command(IscsiTask& task) noexcept;
  void add_data_out(IscsiTask& task) noexcept;
  void batch_sent() noexcept;
  void put_lun(Bhs& header) const noexcept;

  // Receiving.
  void receive() noexcept;
  bool parse() noexcept;  // false: more bytes are needed, or the session is closed
  bool take_header() noexcept;
  void take_pdu(const Bhs& header, std::span<const std::uint8_t> data);
  void take_login(const Bhs& header, std::span<const std::uint8_t> data);
  void take_response(const Bhs& header, std::span<const std::uint8_t> data);
  bool begin_data_in(const Bhs& header);
  bool take_data_in_bytes() noexcept;
  void end_data_in();
  void take_r2t(const Bhs& header);
  void take_nop_in(const Bhs& header);
  void take_async(const Bhs& header, std::span<const std::uint8_t> data);
  void take_serials(const Bhs& header, bool has_stat_sn) noexcept;
  IscsiTask* find(std::uint32_t tag) noexcept;
  void finish(IscsiTask& task) noexcept;
  void release_slot(IscsiTask& task) noexcept;
  void broken(std::string_view what) noexcept;

  const IscsiUri& uri_;
  State state_ = State::connecting;
  Error error_;
  std::string moved_to_;
  int fd_ = -1;
  std::unique_ptr<IscsiLogin> login_;
  IscsiParameters parameters_;
  bool logging_out_ = false;

  // Tasks: a tag is the place in slots_, and a count that rises with each use of the place.
  std::vector<IscsiTask*> slots_;
  std::vector<std::uint16_t> uses_;
  std::vector<std::uint16_t> free_;
  IscsiTask *queue_ = nullptr, *queue_last_ = nullptr;        // to be sent
  IscsiTask *outgoing_ = nullptr, *outgoing_last_ = nullptr;  // with bursts to send
  IscsiTask *ended_ = nullptr, *ended_last_ = nullptr;
  std::deque<Managed> managed_;
  std::uint32_t next_managed_ = 0;
  std::vector<std::uint32_t> managing_;
  std::optional<disk::Sense> event_;

  // Counters (4.2.2).
  std::uint32_t cmd_sn_ = IscsiLogin::first_cmd_sn;
  std::uint32_t max_cmd_sn_ = 0;
  std::uint32_t exp_stat_sn_ = 0;

  // What is being sent.
  std::deque<Control> control_;
  std::string control_data_;  // of the batch
  std::array<Outgoing, batch_pdus> batch_;
  std::array<iovec, batch_pdus * 3> pieces_;
  std::size_t batch_count_ = 0, batch_size_ = 0;
  std::size_t piece_ = 0, piece_count_ = 0;

  // What is being received.
  std::vector<std::uint8_t> received_;
  std::size_t begin_ = 0, end_ = 0;
  TimePoint last_received_{};
  struct DataIn {
    Bhs header;
    IscsiTask* task = nullptr;  // null: none
    std::uint32_t left = 0;     // of the data
    std::uint32_t offset = 0;   // in the task's data, of what comes next
    iscsi::Crc32c crc;
  } data_in_;
};

}  // namespace blockloom
