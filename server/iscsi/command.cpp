#include "server/iscsi/command.hpp"

#include <algorithm>
#include <cstring>

#include "server/iscsi/session.hpp"

namespace blockloom::iscsi {

Command::Command(Session& owner) : session(owner) {
  task.owner = this;
  ended_mail.owner = stop_mail.owner = this;
  stop_mail.deliver = [](Mail& mail) noexcept {
    auto& command = *static_cast<Command*>(mail.owner);
    command.session.stop_told(command);
  };
  task.complete = [](ScsiTask& t) noexcept {
    auto& command = *static_cast<Command*>(t.owner);
    command.ended_mail.deliver = [](Mail& mail) noexcept {
      auto& self = *static_cast<Command*>(mail.owner);
      self.session.ended(self);
    };
    command.session.mailbox().push(command.ended_mail);
  };
  task.again = [](ScsiTask& t) noexcept {
    auto& command = *static_cast<Command*>(t.owner);
    command.ended_mail.deliver = [](Mail& mail) noexcept {
      auto& self = *static_cast<Command*>(mail.owner);
      self.session.go_on(self);
    };
    command.session.mailbox().push(command.ended_mail);
  };
  task.stop = [](ScsiTask& t) noexcept {
    auto& command = *static_cast<Command*>(t.owner);
    command.session.mailbox().push(command.stop_mail);
  };
}

void Command::start(const Bhs& header) {
  itt = header.itt();
  cmd_sn = header.cmd_sn();
  immediate = header.immediate();
  const auto cdb = header.cdb();
  std::copy(cdb.begin(), cdb.end(), task.cdb.begin());
  task.lun = header.lun();
  const unsigned attribute = header.u8(1) & 7;
  task.attribute = attribute > 4 ? TaskAttribute::simple : static_cast<TaskAttribute>(attribute);
  const std::uint32_t expected = header.expected_length();
  const bool writes = (header.u8(1) & flag::write) != 0;
  const bool reads = (header.u8(1) & flag::read) != 0;
  task.expected_out = writes ? expected : 0;
  task.expected_in = reads && !writes ? expected : 0;
  stop_arrived = false;
  unsolicited_open = false;
  fault = DataFault::none;
  unsolicited_next = unsolicited_sn = solicited_next = r2ts = 0;
  bursts.fill({});
  open_bursts = 0;
  sent_data_ = data_sn_ = burst_left_ = 0;
}

void Command::fail(DataFault why) noexcept {
  const auto code = static_cast<std::uint32_t>(why);
  task.aborted = false;
  task.status = scsi::Status::check_condition;
  task.data_in_length = 0;
  task.sense.fill(0);
  task.sense[0] = 0x70;  // fixed format, current
  task.sense[2] = static_cast<std::uint8_t>(code >> 16);
  task.sense[7] = 10;
  task.sense[12] = static_cast<std::uint8_t>(code >> 8);
  task.sense[13] = static_cast<std::uint8_t>(code);
  task.sense_length = 18;
  task.presented = task.expected_out != 0 ? task.expected_out : task.expected_in;
}

void Command::set_residual(Bhs& header) const noexcept {
  const Residual residual = task.residual();
  if (residual.kind == Residual::Kind::none) return;
  const bool over = residual.kind == Residual::Kind::overflow;
  header.set8(1,
              static_cast<std::uint8_t>(header.u8(1) | (over ? flag::overflow : flag::underflow)));
  header.set32(44, residual.count);
}

bool Command::data_frame(Frame& frame) noexcept {
  const Parameters& agreed = session.parameters();
  if (burst_left_ == 0) burst_left_ = agreed.max_burst_length;
  const std::uint32_t left = task.data_in_length - sent_data_;
  const std::uint32_t now = std::min({left, agreed.send_segment, burst_left_});
  frame.data = task.data.data() + sent_data_;
  frame.length = now;
  const bool last = now == left;
  // Status rides on the last data where it needs no sense data (RFC 7143 11.7.3).
  const bool collapsed = last && task.sense_length == 0 && task.status == scsi::Status::good;
  frame.header = make_data_in(itt, session.serials(false), data_sn_++, sent_data_, now);
  sent_data_ += now;
  burst_left_ -= now;
  if (last || burst_left_ == 0) frame.header.set8(1, flag::final);
  if (collapsed) {
    session.answered(*this);
    const Serials serials = session.serials(true);
    frame.header.set8(1, flag::final | flag::status);
    frame.header.set8(3, static_cast<std::uint8_t>(task.status));
    frame.header.set32(24, serials.stat_sn);
    frame.header.set32(32, serials.max_cmd_sn);
    set_residual(frame.header);
  }
  return collapsed;
}

void Command::response_frame(Frame& frame) noexcept {
  session.answered(*this);
  frame.header = make_response(Opcode::scsi_response, itt, session.serials(true));
  frame.header.set8(3, static_cast<std::uint8_t>(task.status));
  frame.header.set32(36, task.expected_out != 0 ? r2ts : data_sn_);
  set_residual(frame.header);
  if (task.sense_length == 0) return;
  sense_segment_[0] = std::byte{0};
  sense_segment_[1] = std::byte{task.sense_length};
  std::memcpy(sense_segment_.data() + 2, task.sense.data(), task.sense_length);
  frame.data = sense_segment_.data();
  frame.length = std::uint32_t{task.sense_length} + 2;
  frame.header.set_data_length(frame.length);
}

bool Command::next_frame(Frame& frame) noexcept {
  if (sent_data_ < task.data_in_length) return data_frame(frame);
  response_frame(frame);
  return true;
}

void Command::sent() noexcept {
  session.release(*this);
}

}  // namespace blockloom::iscsi
