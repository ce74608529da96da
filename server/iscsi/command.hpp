#pragma once

#include <array>
#include <cstddef>
#include <cstdint>

#include "proto/iscsi/pdu.hpp"
#include "server/iscsi/mailbox.hpp"
#include "server/iscsi/scsi_task.hpp"
#include "server/iscsi/send_queue.hpp"

namespace blockloom::iscsi {

class Session;

/// Sense data of the transport's own making: key, ASC, ASCQ (RFC 7143 11.4.7.2).
enum class DataFault : std::uint32_t {
  none = 0,
  unexpected_unsolicited = 0x0b0c0c,
  incorrect_amount = 0x0b0c0d,
  digest = 0x0b4705,
  out_of_order = 0x0b4b00,  ///< data phase error: DataSN or offset is wrong
};

/// One SCSI command of a session, from its PDU to its last answer. Belongs to the session, on the
/// connection's thread; used again and again.
class Command final : public Outgoing {
 public:
  static constexpr std::size_t max_r2ts = 8;

  enum class State : std::uint8_t {
    free,
    receiving,  ///< the unit wants data that are not all there
    running,    ///< the unit has it
    draining,   ///< over, but the initiator still sends unsolicited data
    answering,  ///< in the send queue
  };

  /// A run of data that was asked for by R2T.
  struct Burst {
    std::uint32_t ttt = no_tag;
    std::uint32_t next = 0, end = 0;  ///< offsets
    std::uint32_t data_sn = 0;
    bool open() const noexcept { return ttt != no_tag; }
  };

  explicit Command(Session& session);

  /// Takes the PDU's fields over.
  void start(const Bhs& header);
  /// Sense data instead of what the unit said.
  void fail(DataFault fault) noexcept;

  bool next_frame(Frame& frame) noexcept override;
  void sent() noexcept override;

  Session& session;
  ScsiTask task;
  State state = State::free;
  std::uint32_t itt = 0, cmd_sn = 0;
  bool immediate = false;
  Command* next_of_tag = nullptr;  ///< the session's table, or its free list

  // Data-Out.
  bool unsolicited_open = false;  ///< Data-Out without R2T is still coming
  DataFault fault = DataFault::none;
  std::uint32_t unsolicited_next = 0, unsolicited_sn = 0;
  std::uint32_t solicited_next = 0;  ///< asked for up to here
  std::uint32_t r2ts = 0;            ///< sent so far
  std::array<Burst, max_r2ts> bursts{};
  std::size_t open_bursts = 0;

  // Mail from the unit's threads.
  Mail ended_mail, stop_mail;
  bool stop_arrived = false;

 private:
  bool data_frame(Frame& frame) noexcept;
  void response_frame(Frame& frame) noexcept;
  void set_residual(Bhs& header) const noexcept;

  std::uint32_t sent_data_ = 0, data_sn_ = 0, burst_left_ = 0;
  std::array<std::byte, 2 + 64> sense_segment_;
};

}  // namespace blockloom::iscsi
