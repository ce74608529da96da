// What a session receives. Every field is checked against what was asked for.
#include <algorithm>
#include <cerrno>
#include <cstring>

#include <fmt/format.h>

#include "server/leg/iscsi_session.hpp"

namespace blockloom {

using iscsi::Opcode;

namespace {

constexpr int reads_per_turn = 16;

std::uint32_t load_digest(const std::uint8_t* at) {
  std::uint32_t digest = 0;
  for (int i = 3; i >= 0; --i)
    digest = digest << 8 | at[i];
  return digest;
}

}  // namespace

void IscsiSession::receive() noexcept {
  for (int i = 0; i < reads_per_turn && state_ != State::closed; ++i) {
    // Data that is on its way to a task goes there directly, once the buffer is used up.
    const bool direct = data_in_.task != nullptr && begin_ == end_ && data_in_.left > 0;
    if (begin_ == end_) begin_ = end_ = 0;
    if (!direct && end_ == received_.size()) {
      std::memmove(received_.data(), received_.data() + begin_, end_ - begin_);
      end_ -= begin_;
      begin_ = 0;
    }
    std::uint8_t* const into =
        direct ? reinterpret_cast<std::uint8_t*>(data_in_.task->data) + data_in_.offset
               : received_.data() + end_;
    const std::size_t room = direct ? data_in_.left : received_.size() - end_;
    const ssize_t n = recv(fd_, into, room, MSG_DONTWAIT);
    if (n < 0 && errno == EINTR) continue;
    if (n < 0 && (errno == EAGAIN || errno == EWOULDBLOCK)) return;
    if (n < 0) return close(system_error("receive", errno));
    if (n == 0)
      return close({logging_out_ ? Errc::shutdown : Errc::io, "the target closed the connection"});
    last_received_ = Clock::now();
    const auto got = static_cast<std::uint32_t>(n);
    if (direct) {
      if (parameters_.data_digest) data_in_.crc.add(into, got);
      data_in_.offset += got;
      data_in_.left -= got;
    } else {
      end_ += got;
    }
    while (parse()) {
    }
    // Less than there was room for: nothing more has come yet.
    if (got < room) return;
  }
}

/// Takes one step: a header, a part of Data-In, a whole other PDU.
bool IscsiSession::parse() noexcept {
  if (state_ == State::closed) return false;
  if (data_in_.task != nullptr) return take_data_in_bytes();
  return take_header();
}

bool IscsiSession::take_header() noexcept {
  const bool digests = state_ == State::ready;
  const std::size_t header_size =
      iscsi::bhs_size + (digests && parameters_.header_digest ? iscsi::digest_size : 0);
  if (end_ - begin_ < header_size) return false;
  const std::uint8_t* const at = received_.data() + begin_;
  Bhs header;
  std::copy_n(at, iscsi::bhs_size, header.bytes.begin());
  if (header_size > iscsi::bhs_size &&
      load_digest(at + iscsi::bhs_size) != iscsi::crc32c(at, iscsi::bhs_size)) {
    broken("a header digest is wrong");
    return false;
  }
  const std::uint32_t length = header.data_length();
  if (header.ahs_length() != 0 || length > IscsiParameters::max_receive_segment) {
    broken("a PDU is longer than agreed");
    return false;
  }
  if (header.opcode() == Opcode::data_in && digests) {
    begin_ += header_size;
    return begin_data_in(header);
  }
  const std::size_t digest = digests && parameters_.data_digest && length > 0 ? 4 : 0;
  const std::size_t whole = header_size + iscsi::padded(length) + digest;
  if (whole > received_.size()) {
    broken("a PDU other than Data-In is too long");
    return false;
  }
  if (end_ - begin_ < whole) return false;
  begin_ += whole;
  const std::span<const std::uint8_t> data(at + header_size, length);
  if (digest > 0 &&
      load_digest(at + whole - 4) != iscsi::crc32c(data.data(), iscsi::padded(length))) {
    broken("a data digest is wrong");
    return false;
  }
  take_pdu(header, data);
  return state_ != State::closed;
}

void IscsiSession::take_serials(const Bhs& header, bool has_stat_sn) noexcept {
  const std::uint32_t exp_cmd_sn = header.u32(28), max_cmd_sn = header.u32(32);
  // 4.2.2.1: an impossible pair is ignored, and the window never shrinks.
  if (!iscsi::serial_less(max_cmd_sn, exp_cmd_sn - 1) &&
      iscsi::serial_less(max_cmd_sn_, max_cmd_sn))
    max_cmd_sn_ = max_cmd_sn;
  if (has_stat_sn && !iscsi::serial_less(header.u32(24) + 1, exp_stat_sn_))
    exp_stat_sn_ = header.u32(24) + 1;
}

void IscsiSession::take_pdu(const Bhs& header, std::span<const std::uint8_t> data) {
  if (state_ == State::login) return take_login(header, data);
  switch (header.opcode()) {
    case Opcode::scsi_response:
      return take_response(header, data);
    case Opcode::r2t:
      return take_r2t(header);
    case Opcode::nop_in:
      return take_nop_in(header);
    case Opcode::task_management_response: {
      take_serials(header, true);
      const auto asked = std::find(managing_.begin(), managing_.end(), header.itt());
      if (asked == managing_.end()) return broken("it answers a task management never asked for");
      managing_.erase(asked);
      managed_.push_back({header.itt(), static_cast<iscsi::TaskResponse>(header.u8(2))});
      return;
    }
    case Opcode::logout_response:
      if (!logging_out_) return broken("it answers a logout that was not asked for");
      return close({Errc::shutdown, "logged out"});
    case Opcode::async_message:
      return take_async(header, data);
    case Opcode::reject:
      return close({Errc::io, fmt::format("the target rejects what it was sent (reason {:02X}h)",
                                          header.u8(2))});
    default:
      return broken(fmt::format("opcode {:02X}h", header.u8(0)));
  }
}

void IscsiSession::take_login(const Bhs& header, std::span<const std::uint8_t> data) {
  const std::string_view text(reinterpret_cast<const char*>(data.data()), data.size());
  switch (login_->take(header, text)) {
    case IscsiLogin::Step::send:
      return send_login();
    case IscsiLogin::Step::moved:
      moved_to_ = login_->moved_to();
      return close({Errc::io, "the target has moved"});
    case IscsiLogin::Step::failed:
      return close(login_->error());
    case IscsiLogin::Step::done:
      break;
  }
  parameters_ = login_->parameters();
  max_cmd_sn_ = login_->serials().max_cmd_sn;
  exp_stat_sn_ = login_->serials().stat_sn + 1;
  login_.reset();
  state_ = State::ready;
}

void IscsiSession::take_response(const Bhs& header, std::span<const std::uint8_t> data) {
  take_serials(header, true);
  IscsiTask* task = find(header.itt());
  if (task == nullptr) return broken("it answers a command that it was not sent");
  if (!header.final()) return broken("a SCSI response is not final");
  task->response = header.u8(2);
  task->status = header.u8(3);
  if (data.size() >= 2) {
    const std::size_t length = std::size_t{data[0]} << 8 | data[1];
    const auto sense = data.subspan(2, std::min(length, data.size() - 2));
    task->sense_length =
        static_cast<std::uint8_t>(std::min<std::size_t>(sense.size(), task->sense.size()));
    std::copy_n(sense.begin(), task->sense_length, task->sense.begin());
  }
  finish(*task);
}

bool IscsiSession::begin_data_in(const Bhs& header) {
  const std::uint32_t length = header.data_length(), offset = header.buffer_offset();
  const bool with_status = (header.u8(1) & iscsi::flag::status) != 0;
  take_serials(header, with_status);
  IscsiTask* task = find(header.itt());
  const auto fits = [&] {
    return offset == task->transferred && length <= task->length - task->transferred &&
           header.data_sn() == task->data_sn_ && (!with_status || header.final());
  };
  if (task == nullptr || task->direction != IscsiTask::Direction::in) {
    broken("it sends data that was not asked for");
  } else if (!fits()) {
    broken("it sends data out of order, or too much");
  } else {
    ++task->data_sn_;
    data_in_ = {header, task, length, offset, {}};
    return true;
  }
  return false;
}

bool IscsiSession::take_data_in_bytes() noexcept {
  if (data_in_.left > 0) {
    const auto length =
        static_cast<std::uint32_t>(std::min<std::size_t>(end_ - begin_, data_in_.left));
    if (length == 0) return false;
    const std::uint8_t* const from = received_.data() + begin_;
    std::memcpy(data_in_.task->data + data_in_.offset, from, length);
    if (parameters_.data_digest) data_in_.crc.add(from, length);
    begin_ += length;
    data_in_.offset += length;
    data_in_.left -= length;
    if (data_in_.left > 0) return false;
  }
  const std::uint32_t length = data_in_.header.data_length();
  const std::size_t padding = iscsi::padded(length) - length;
  const std::size_t digest = parameters_.data_digest && length > 0 ? iscsi::digest_size : 0;
  if (end_ - begin_ < padding + digest) return false;
  const std::uint8_t* const at = received_.data() + begin_;
  begin_ += padding + digest;
  if (digest > 0) {
    data_in_.crc.add(at, padding);
    if (load_digest(at + padding) != data_in_.crc.value()) {
      broken("a data digest is wrong");
      return false;
    }
  }
  end_data_in();
  return state_ != State::closed;
}

void IscsiSession::end_data_in() {
  IscsiTask& task = *data_in_.task;
  data_in_.task = nullptr;
  task.transferred = data_in_.offset;
  if ((data_in_.header.u8(1) & iscsi::flag::status) == 0) return;
  task.status = data_in_.header.u8(3);
  finish(task);
}

void IscsiSession::take_r2t(const Bhs& header) {
  take_serials(header, false);
  IscsiTask* task = find(header.itt());
  const std::uint32_t offset = header.u32(40), length = header.u32(44);
  if (task == nullptr || task->direction != IscsiTask::Direction::out)
    return broken("it asks for data of a command that it was not sent");
  if (offset > task->length || length == 0 || length > task->length - offset ||
      length > parameters_.max_burst || header.u32(36) != task->r2t_sn_ ||
      header.ttt() == iscsi::no_tag)
    return broken("it asks for data that the command does not have");
  if (task->burst_count_ > parameters_.max_r2t || task->burst_count_ == task->bursts_.size())
    return broken("it asks for more at a time than agreed");
  ++task->r2t_sn_;
  if (task->burst_count_ == 0) {
    task->next_ = nullptr;
    (outgoing_ == nullptr ? outgoing_ : outgoing_last_->next_) = task;
    outgoing_last_ = task;
  }
  task->bursts_[task->burst_count_++] = {header.ttt(), offset, offset + length, 0};
}

void IscsiSession::take_nop_in(const Bhs& header) {
  const bool answer = header.itt() != iscsi::no_tag;
  take_serials(header, answer);
  if (header.ttt() == iscsi::no_tag) return;
  Control control;
  control.header.set8(0, static_cast<std::uint8_t>(Opcode::nop_out) | 0x40);
  control.header.set8(1, iscsi::flag::final);
  control.header.set64(8, header.lun());
  control.header.set32(16, iscsi::no_tag);
  control.header.set32(20, header.ttt());
  if (!push_control(std::move(control))) broken("it pings without end");
}

void IscsiSession::take_async(const Bhs& header, std::span<const std::uint8_t> data) {
  take_serials(header, true);
  switch (static_cast<iscsi::AsyncEvent>(header.u8(36))) {
    case iscsi::AsyncEvent::scsi:
      if (data.size() > 2) event_ = disk::parse_sense(data.subspan(2));
      return;
    case iscsi::AsyncEvent::drops_connection:
    case iscsi::AsyncEvent::drops_session:
      return close({Errc::io, "the target drops the session"});
    default:
      // A logout was asked for, or a new negotiation: a new session is both.
      return close({Errc::io, "the target asks for a logout"});
  }
}

}  // namespace blockloom
