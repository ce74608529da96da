// What a session sends: batches of PDUs that leave with one system call.
#include <algorithm>
#include <cassert>
#include <cerrno>

#include "server/leg/iscsi_session.hpp"

namespace blockloom {

using iscsi::Opcode;

namespace {

void put_digest(std::uint8_t* at, std::uint32_t digest) {
  for (int i = 0; i < 4; ++i)
    at[i] = static_cast<std::uint8_t>(digest >> 8 * i);
}

}  // namespace

void IscsiSession::put_lun(Bhs& header) const noexcept {
  // Peripheral addressing up to 255, then flat (SAM-5 4.7.7).
  header.set16(8, static_cast<std::uint16_t>(uri_.lun < 256 ? uri_.lun : 0x4000 | uri_.lun));
}

void IscsiSession::send_login() {
  Control control;
  control.header = login_->request(control.data);
  control_.push_back(std::move(control));
}

bool IscsiSession::push_control(Control control) {
  if (state_ == State::closed || control_.size() >= max_control) return false;
  control_.push_back(std::move(control));
  return true;
}

bool IscsiSession::batch_has_room() const noexcept {
  return batch_count_ < batch_pdus && batch_size_ < batch_bytes;
}

/// Adds a PDU with its digests. The data stays where it is until the batch is sent.
void IscsiSession::add_pdu(Bhs& header, const void* data, std::uint32_t length,
                           IscsiTask* task) noexcept {
  Outgoing& out = batch_[batch_count_++];
  const bool login = state_ == State::login;
  header.set_data_length(length);
  if (!login) header.set32(28, exp_stat_sn_);
  std::copy(header.bytes.begin(), header.bytes.end(), out.header.begin());
  std::size_t header_size = iscsi::bhs_size;
  if (parameters_.header_digest && !login) {
    put_digest(out.header.data() + header_size, iscsi::crc32c(header.bytes.data(), header_size));
    header_size += iscsi::digest_size;
  }
  pieces_[piece_count_++] = {out.header.data(), header_size};
  batch_size_ += header_size;
  out.task = task;
  if (task != nullptr) ++task->pins_;
  if (length == 0) return;
  pieces_[piece_count_++] = {const_cast<void*>(data), length};
  std::size_t trailer_size = iscsi::padded(length) - length;
  std::fill_n(out.trailer.begin(), trailer_size, std::uint8_t{0});
  if (parameters_.data_digest && !login) {
    iscsi::Crc32c crc;
    crc.add(data, length);
    crc.add_padding(length);
    put_digest(out.trailer.data() + trailer_size, crc.value());
    trailer_size += iscsi::digest_size;
  }
  if (trailer_size > 0) pieces_[piece_count_++] = {out.trailer.data(), trailer_size};
  batch_size_ += length + trailer_size;
}

void IscsiSession::add_command(IscsiTask& task) noexcept {
  Bhs header;
  const bool out = task.direction == IscsiTask::Direction::out;
  // What goes without being asked for: with the command, and after it (4.2.4.3, 13.10, 13.11).
  const std::uint32_t burst = std::min(task.length, parameters_.first_burst);
  const std::uint32_t immediate =
      out && parameters_.immediate_data ? std::min(burst, parameters_.max_send_segment) : 0;
  const std::uint32_t unsolicited = out && !parameters_.initial_r2t ? burst : immediate;
  unsigned flags = 1;  // simple task
  if (unsolicited == immediate) flags |= iscsi::flag::final;
  if (out) flags |= iscsi::flag::write;
  if (task.direction == IscsiTask::Direction::in) flags |= iscsi::flag::read;
  header.set8(0, static_cast<std::uint8_t>(Opcode::scsi_command));
  header.set8(1, static_cast<std::uint8_t>(flags));
  put_lun(header);
  header.set32(16, task.tag_);
  header.set32(20, task.length);
  task.cmd_sn_ = cmd_sn_++;
  header.set32(24, task.cmd_sn_);
  for (std::size_t i = 0; i < task.cdb.size(); ++i)
    header.set8(32 + i, task.cdb[i]);
  task.state_ = IscsiTask::State::sent;
  add_pdu(header, task.data, immediate, &task);
  if (unsolicited == immediate) return;
  task.bursts_[task.burst_count_++] = {iscsi::no_tag, immediate, unsolicited, 0};
  // Unsolicited data keeps the order of its commands: it is next.
  task.next_ = outgoing_;
  outgoing_ = &task;
  if (outgoing_last_ == nullptr) outgoing_last_ = &task;
}

void IscsiSession::add_data_out(IscsiTask& task) noexcept {
  IscsiTask::Burst& burst = task.bursts_[0];
  Bhs header;
  const std::uint32_t length = std::min(burst.end - burst.offset, parameters_.max_send_segment);
  const bool last = burst.offset + length == burst.end;
  header.set8(0, static_cast<std::uint8_t>(Opcode::data_out));
  header.set8(1, last ? iscsi::flag::final : 0);
  // With a target transfer tag the LUN is given (11.7.4).
  if (burst.ttt != iscsi::no_tag) put_lun(header);
  header.set32(16, task.tag_);
  header.set32(20, burst.ttt);
  header.set32(36, burst.data_sn++);
  header.set32(40, burst.offset);
  add_pdu(header, task.data + burst.offset, length, &task);
  burst.offset += length;
  if (!last) return;
  std::move(task.bursts_.begin() + 1, task.bursts_.begin() + task.burst_count_,
            task.bursts_.begin());
  if (--task.burst_count_ > 0) return;
  outgoing_ = task.next_;
  if (outgoing_ == nullptr) outgoing_last_ = nullptr;
  task.next_ = nullptr;
}

/// Fills an empty batch.
void IscsiSession::compose() {
  batch_count_ = batch_size_ = piece_ = piece_count_ = 0;
  control_data_.clear();
  while (!control_.empty() && batch_has_room()) {
    Control control = std::move(control_.front());
    control_.pop_front();
    // Immediate ones carry the next CmdSN and do not use it up (4.2.2.1).
    if (state_ == State::ready) control.header.set32(24, cmd_sn_);
    const auto length = static_cast<std::uint32_t>(control.data.size());
    control_data_ = std::move(control.data);
    add_pdu(control.header, control_data_.data(), length, nullptr);
    if (length > 0) return;  // one with data is alone: the data has one place
  }
  if (state_ != State::ready || logging_out_) return;
  for (;;) {
    while (outgoing_ != nullptr && batch_has_room())
      add_data_out(*outgoing_);
    // The target's window: what lies beyond it waits here, where it can be taken back.
    if (queue_ == nullptr || !batch_has_room() || iscsi::serial_less(max_cmd_sn_, cmd_sn_)) return;
    IscsiTask& task = *queue_;
    queue_ = task.next_;
    if (queue_ == nullptr) queue_last_ = nullptr;
    task.next_ = nullptr;
    add_command(task);
  }
}

void IscsiSession::batch_sent() noexcept {
  for (std::size_t i = 0; i < batch_count_; ++i) {
    IscsiTask* task = batch_[i].task;
    if (task != nullptr && --task->pins_ == 0 && task->state_ == IscsiTask::State::ended)
      finish(*task);
  }
  batch_count_ = piece_ = piece_count_ = 0;
}

void IscsiSession::send() noexcept {
  while (state_ == State::login || state_ == State::ready) {
    if (piece_ == piece_count_) compose();
    if (piece_ == piece_count_) return;
    msghdr message{};
    message.msg_iov = pieces_.data() + piece_;
    message.msg_iovlen = piece_count_ - piece_;
    const ssize_t n = sendmsg(fd_, &message, MSG_NOSIGNAL | MSG_DONTWAIT);
    if (n < 0) {
      if (errno == EINTR) continue;
      if (errno == EAGAIN || errno == EWOULDBLOCK) return;
      return close(system_error("send", errno));
    }
    auto left = static_cast<std::size_t>(n);
    while (piece_ < piece_count_ && left >= pieces_[piece_].iov_len)
      left -= pieces_[piece_++].iov_len;
    if (piece_ < piece_count_) {
      iovec& piece = pieces_[piece_];
      piece.iov_base = static_cast<std::uint8_t*>(piece.iov_base) + left;
      piece.iov_len -= left;
    } else {
      batch_sent();
    }
  }
}

}  // namespace blockloom
