#pragma once

#include <array>
#include <atomic>
#include <cstdint>
#include <functional>
#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "proto/iscsi/keys.hpp"
#include "proto/iscsi/login.hpp"
#include "proto/iscsi/pdu.hpp"
#include "proto/iscsi/text.hpp"
#include "server/base/clock.hpp"
#include "server/iscsi/command.hpp"
#include "server/iscsi/mailbox.hpp"
#include "server/iscsi/receiver.hpp"
#include "server/iscsi/scsi_target.hpp"
#include "server/iscsi/send_queue.hpp"

namespace blockloom::iscsi {

struct ControlPdu;
struct ManagedTask;

/// What a session asks of its connection. On the connection's thread.
class SessionHost {
 public:
  virtual Mailbox& mailbox() noexcept = 0;
  virtual void send_soon() noexcept = 0;
  /// Sends what waits, then closes the connection. `why` is for the log; empty: all is well.
  virtual void finish(std::string_view why) noexcept = 0;
  /// After Session::close(): nothing of it is left in the units.
  virtual void session_over() noexcept = 0;
  /// The answer to SendTargets: "All", a name, or empty for the session's own target.
  virtual void send_targets(std::string_view which, TextWriter& answer) = 0;
  /// TARGET COLD RESET was done: all sessions of the target end.
  virtual void target_was_reset() noexcept = 0;

 protected:
  ~SessionHost() = default;
};

/// Counters for `iscsi sessions`; read from any thread.
struct SessionCounts {
  std::atomic<std::uint64_t> commands{0}, read_bytes{0}, written_bytes{0}, rejects{0};
  std::atomic<std::uint32_t> in_flight{0};
};

/// A session of one connection in full feature phase: RFC 7143 from login to logout. Lives on the
/// connection's thread, but for unit_attention().
class Session final : public NexusListener {
 public:
  struct Start {
    Parameters parameters;
    std::uint32_t stat_sn = 0, cmd_sn = 0;
    std::uint32_t window = 128;           ///< commands
    std::size_t data_bytes = 128U << 20;  ///< of all its commands
    bool discovery = false;
  };

  Session(SessionHost& host, SendQueue& sends, Receiver& receiver, const Start& start);
  ~Session();

  /// Before the first PDU; not for discovery.
  void attach(std::shared_ptr<Nexus> nexus) noexcept { nexus_ = std::move(nexus); }

  // The receiver's, as PduHandler has them.
  std::span<std::byte> header(const Bhs& header, std::span<const std::uint8_t> ahs);
  void end(bool digest_good);

  /// Tells the initiator by an async message.
  void tell(AsyncEvent event, std::uint16_t parameter1 = 0, std::uint16_t parameter2 = 0,
            std::uint16_t parameter3 = 0);
  void reject(RejectReason reason, const Bhs& header);
  /// Asks whether the initiator is still there.
  void ping();
  /// The connection is about to end: no command is answered from now on.
  void hush() noexcept { hushed_ = true; }

  /// The connection is closed, or about to be: all tasks end, then host.session_over().
  void close();

  void unit_attention(std::uint64_t lun, std::span<const std::uint8_t> sense) noexcept override;

  const Parameters& parameters() const noexcept { return agreed_; }
  const SessionCounts& counts() const noexcept { return counts_; }
  Mailbox& mailbox() const noexcept { return host_.mailbox(); }

  // For its commands.
  void ended(Command& command);
  void go_on(Command& command);
  void stop_told(Command& command);
  void release(Command& command) noexcept;
  /// The last PDU of the command is being made: its place in the window is free.
  void answered(const Command& command) noexcept;
  /// The counters of the PDU that is made now; with status it takes a StatSN.
  Serials serials(bool status) noexcept;

  // For its other PDUs.
  void release(ControlPdu& pdu) noexcept;
  void managed(ManagedTask& managed);

 private:
  void answer_logout();
  enum class Kind : std::uint8_t { ignored, command, data, control };

  std::span<std::byte> command_header(const Bhs& header, std::span<const std::uint8_t> ahs);
  std::span<std::byte> data_header(const Bhs& header);
  std::span<std::byte> solicited(Command& command, const Bhs& header);
  std::span<std::byte> unsolicited(Command& command, const Bhs& header);
  void command_end(bool digest_good);
  void data_end(bool digest_good);
  void receive(Command& command);
  void send_r2ts(Command& command);
  void stepped(Command& command, TaskStep step);
  void answer(Command& command);
  void give_up(Command& command);
  void recycle(Command& command) noexcept;
  bool take_number(const Bhs& header);
  Command* find(std::uint32_t itt) const noexcept;
  Command& new_command();
  void begin(Command& command, const Bhs& header);

  void control_end();
  void nop_out();
  void text();
  void logout();
  void task_management();
  void manage(const Bhs& request, std::uint64_t lun, Command* referenced);
  void answer_management(std::uint32_t itt, TaskResponse response);
  void send_text_answer(std::uint32_t itt);
  ControlPdu& send(const Bhs& header, std::string data = {}, bool status = true);
  void nexus_lost();
  void check_over();

  SessionHost& host_;
  SendQueue& sends_;
  Receiver& receiver_;
  Parameters agreed_;
  const std::uint32_t window_;
  const std::size_t data_bytes_;
  const bool discovery_;
  std::shared_ptr<Nexus> nexus_;
  SessionCounts counts_;

  std::uint32_t stat_sn_, exp_cmd_sn_;
  std::uint32_t outstanding_ = 0;  ///< commands that hold a place in the window
  std::uint32_t immediates_ = 0;
  std::size_t data_in_use_ = 0;
  std::uint32_t next_ttt_ = 1;

  // The PDU that is received.
  Kind kind_ = Kind::ignored;
  Bhs header_;
  Command* current_ = nullptr;  ///< null as well when it went meanwhile
  Command::Burst* burst_ = nullptr;
  std::string control_data_;

  std::vector<std::unique_ptr<Command>> commands_;
  Command* free_ = nullptr;
  std::size_t in_use_ = 0;
  std::array<Command*, 64> tags_{};

  ControlPdu* free_pdus_ = nullptr;
  std::size_t kept_pdus_ = 0;
  std::size_t managing_ = 0;

  TextAssembler text_;
  std::string text_answer_;  ///< what is left to send
  std::uint32_t text_ttt_ = no_tag, text_itt_ = no_tag;
  std::uint32_t ping_ttt_ = no_tag;

  bool hushed_ = false, closing_ = false, lost_ = false, over_ = false;
  bool logging_out_ = false;
  Bhs logout_;
  std::unique_ptr<ManagedTask> loss_;
  std::shared_ptr<bool> alive_ = std::make_shared<bool>(true);
};

/// A PDU without SCSI data: NOP-In, R2T, responses, Reject.
struct ControlPdu final : Outgoing {
  explicit ControlPdu(Session& owner) : session(owner) {}
  bool next_frame(Frame& frame) noexcept override;
  void sent() noexcept override { session.release(*this); }

  Session& session;
  Bhs header;
  std::string data;
  bool status = true;         ///< takes a StatSN
  bool shows_stat_sn = true;  ///< or the field is reserved
  ControlPdu* next_free = nullptr;
};

/// A task management function that waits for its tasks.
struct ManagedTask {
  explicit ManagedTask(Session& owner);
  Session& session;
  TaskManagement management;
  std::uint32_t itt = 0;
  Mail mail;
};

}  // namespace blockloom::iscsi
