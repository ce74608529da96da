// SCSI commands: Command, Data-Out, R2T, Data-In, Response (RFC 7143 11.2 to 11.4, 11.7, 11.8).
#include <algorithm>
#include <utility>

#include "server/iscsi/session.hpp"

namespace blockloom::iscsi {
namespace {

/// Immediate commands that may be under way beside the window.
constexpr std::uint32_t max_immediates = 32;

std::size_t data_of(const Command& command) noexcept {
  return std::size_t{command.task.expected_in} + command.task.expected_out;
}

/// Where data from this offset on go. The unit may want less than the initiator sends.
std::span<std::byte> room(Command& command, std::uint32_t offset) noexcept {
  const std::uint32_t wanted = command.task.data_out_wanted;
  if (offset >= wanted) return {};
  return {command.task.data.data() + offset, wanted - offset};
}

}  // namespace

Command* Session::find(std::uint32_t itt) const noexcept {
  for (Command* c = tags_[itt % tags_.size()]; c != nullptr; c = c->next_of_tag)
    if (c->itt == itt) return c;
  return {};
}

Command& Session::new_command() {
  if (free_ == nullptr) return *commands_.emplace_back(std::make_unique<Command>(*this));
  Command& command = *free_;
  free_ = command.next_of_tag;
  return command;
}

/// False: the number is not the next one, and the PDU is to be ignored.
bool Session::take_number(const Bhs& header) {
  if (header.immediate()) return true;
  const std::uint32_t number = header.cmd_sn();
  const std::uint32_t max = serials(false).max_cmd_sn;
  // Outside the window: silently (RFC 7143 4.2.2.1).
  if (serial_less(number, exp_cmd_sn_) || serial_less(max, number)) return false;
  if (number != exp_cmd_sn_) {
    // Inside, and yet not the next: with one connection, TCP keeps their order.
    reject(RejectReason::protocol_error, header);
    return false;
  }
  ++exp_cmd_sn_;
  ++outstanding_;
  return true;
}

std::span<std::byte> Session::command_header(const Bhs& header, std::span<const std::uint8_t> ahs) {
  kind_ = Kind::ignored;
  if (discovery_ || logging_out_) {
    reject(logging_out_ ? RejectReason::waiting_for_logout : RejectReason::protocol_error, header);
    return {};
  }
  if (header.immediate() && immediates_ >= max_immediates) {
    reject(RejectReason::immediate, header);
    return {};
  }
  if (!take_number(header)) return {};
  const auto more = parse_ahs(ahs);
  const bool taken = header.itt() == no_tag || find(header.itt()) != nullptr;
  if (!more || taken) {
    if (!header.immediate()) --outstanding_;
    reject(taken ? RejectReason::task_in_progress : RejectReason::invalid_field, header);
    return {};
  }
  Command& command = new_command();
  command.start(header);
  if (more->bidi_read_length) command.task.expected_in = *more->bidi_read_length;
  if (command.immediate) ++immediates_;
  Command*& head = tags_[command.itt % tags_.size()];
  command.next_of_tag = head;
  head = &command;
  ++in_use_;
  counts_.in_flight.store(static_cast<std::uint32_t>(in_use_), std::memory_order_relaxed);
  counts_.commands.store(counts_.commands.load(std::memory_order_relaxed) + 1,
                         std::memory_order_relaxed);
  kind_ = Kind::command;
  current_ = &command;
  begin(command, header);
  if (current_ == nullptr || command.state != Command::State::receiving) return {};
  return room(command, 0);
}

/// Hands a new command to its unit, as soon as its header is there: immediate data then come
/// straight into the unit's buffer.
void Session::begin(Command& command, const Bhs& header) {
  const std::uint32_t immediate = header.data_length();
  command.unsolicited_open = !header.final() && (header.u8(1) & flag::write) != 0;
  command.unsolicited_next = immediate;
  data_in_use_ += data_of(command);
  command.state = Command::State::running;
  if (data_in_use_ > data_bytes_ && data_in_use_ > data_of(command)) {
    command.task.status = scsi::Status::task_set_full;
    command.task.presented = data_of(command);
    return answer(command);
  }
  command.task.nexus = nexus_.get();
  const TaskStep step = nexus_->begin(command.task);
  if (step != TaskStep::wants_data) return stepped(command, step);
  command.state = Command::State::receiving;
  command.solicited_next = immediate;
  const std::uint32_t limit = std::min(agreed_.unsolicited(), command.task.expected_out);
  if ((immediate > 0 && !agreed_.immediate_data) ||
      (command.unsolicited_open && agreed_.initial_r2t))
    command.fault = DataFault::unexpected_unsolicited;
  else if (immediate > limit)
    command.fault = DataFault::incorrect_amount;
}

void Session::command_end(bool digest_good) {
  if (!digest_good) {
    reject(RejectReason::data_digest, header_);
    if (current_ != nullptr && current_->state == Command::State::receiving)
      current_->fault = DataFault::digest;
  }
  Command* const command = std::exchange(current_, nullptr);
  if (command == nullptr || command->state != Command::State::receiving) return;
  receive(*command);
}

std::span<std::byte> Session::data_header(const Bhs& header) {
  kind_ = Kind::data;
  current_ = find(header.itt());
  burst_ = nullptr;
  // Of a command that is over: what was on its way is thrown away.
  if (current_ == nullptr) return {};
  if (current_->state == Command::State::draining) return {};
  if (current_->state != Command::State::receiving) {
    current_ = nullptr;
    return {};
  }
  return header.ttt() == no_tag ? unsolicited(*current_, header) : solicited(*current_, header);
}

std::span<std::byte> Session::unsolicited(Command& command, const Bhs& header) {
  const std::uint64_t end = std::uint64_t{header.buffer_offset()} + header.data_length();
  if (!command.unsolicited_open)
    command.fault = DataFault::unexpected_unsolicited;
  else if (header.data_sn() != command.unsolicited_sn ||
           header.buffer_offset() != command.unsolicited_next)
    command.fault = DataFault::out_of_order;
  else if (end > std::min(agreed_.unsolicited(), command.task.expected_out))
    command.fault = DataFault::incorrect_amount;
  ++command.unsolicited_sn;
  if (command.fault != DataFault::none) return {};
  command.unsolicited_next = command.solicited_next = static_cast<std::uint32_t>(end);
  return room(command, header.buffer_offset());
}

std::span<std::byte> Session::solicited(Command& command, const Bhs& header) {
  const auto burst = std::find_if(command.bursts.begin(), command.bursts.end(),
                                  [&](const Command::Burst& b) { return b.ttt == header.ttt(); });
  if (burst == command.bursts.end()) {
    current_ = nullptr;
    reject(RejectReason::invalid_field, header);
    return {};
  }
  burst_ = &*burst;
  if (header.data_sn() != burst->data_sn++ || header.buffer_offset() != burst->next)
    command.fault = DataFault::out_of_order;
  else if (header.data_length() > burst->end - burst->next)
    command.fault = DataFault::incorrect_amount;
  if (command.fault != DataFault::none) return {};
  const std::uint32_t offset = std::exchange(burst->next, burst->next + header.data_length());
  return room(command, offset);
}

void Session::data_end(bool digest_good) {
  if (!digest_good) {
    reject(RejectReason::data_digest, header_);
    if (current_ != nullptr) current_->fault = DataFault::digest;
  }
  Command* const command = std::exchange(current_, nullptr);
  if (command == nullptr) return;
  if (burst_ != nullptr) {
    if (header_.final() || burst_->next == burst_->end) {
      if (burst_->next != burst_->end && command->fault == DataFault::none)
        command->fault = DataFault::incorrect_amount;
      *burst_ = {};
      --command->open_bursts;
    }
    burst_ = nullptr;
  } else if (header_.ttt() == no_tag && header_.final()) {
    command->unsolicited_open = false;
  }
  if (command->state == Command::State::draining) {
    if (!command->unsolicited_open) answer(*command);
    return;
  }
  receive(*command);
}

/// Goes on with a command whose data were arriving.
void Session::receive(Command& command) {
  if (command.unsolicited_open) return;
  if (command.fault != DataFault::none) {
    if (command.open_bursts > 0) return;  // until all that was asked for has come
    nexus_->abandon(command.task);
    command.fail(command.fault);
    return answer(command);
  }
  if (command.solicited_next < command.task.data_out_wanted) return send_r2ts(command);
  if (command.open_bursts > 0) return;
  counts_.written_bytes.store(
      counts_.written_bytes.load(std::memory_order_relaxed) + command.task.data_out_wanted,
      std::memory_order_relaxed);
  command.state = Command::State::running;
  stepped(command, nexus_->proceed(command.task));
}

void Session::send_r2ts(Command& command) {
  const std::size_t most = std::min<std::size_t>(agreed_.max_outstanding_r2t, Command::max_r2ts);
  while (command.open_bursts < most && command.solicited_next < command.task.data_out_wanted) {
    const auto burst = std::find_if(command.bursts.begin(), command.bursts.end(),
                                    [](const Command::Burst& b) { return !b.open(); });
    const std::uint32_t length =
        std::min(agreed_.max_burst_length, command.task.data_out_wanted - command.solicited_next);
    if (++next_ttt_ == no_tag) next_ttt_ = 1;
    *burst = {next_ttt_, command.solicited_next, command.solicited_next + length, 0};
    ++command.open_bursts;
    command.solicited_next += length;
    send(make_r2t(command.task.lun, command.itt, burst->ttt, {}, command.r2ts++, burst->next,
                  length),
         {}, false);
  }
}

void Session::stepped(Command& command, TaskStep step) {
  if (step == TaskStep::running) {
    command.state = Command::State::running;
    return;
  }
  if (command.task.aborted) return give_up(command);
  answer(command);
}

void Session::answer(Command& command) {
  if (closing_ || hushed_) return give_up(command);
  if (command.unsolicited_open) {
    command.state = Command::State::draining;
    return;
  }
  command.state = Command::State::answering;
  counts_.read_bytes.store(
      counts_.read_bytes.load(std::memory_order_relaxed) + command.task.data_in_length,
      std::memory_order_relaxed);
  sends_.push(command);
  host_.send_soon();
}

/// Over without a response.
void Session::give_up(Command& command) {
  answered(command);
  release(command);
}

void Session::answered(const Command& command) noexcept {
  if (command.immediate)
    --immediates_;
  else
    --outstanding_;
}

void Session::release(Command& command) noexcept {
  Command** place = &tags_[command.itt % tags_.size()];
  while (*place != nullptr && *place != &command)
    place = &(*place)->next_of_tag;
  if (*place != nullptr) *place = command.next_of_tag;
  if (current_ == &command) current_ = nullptr;
  command.next_of_tag = nullptr;
  data_in_use_ -= data_of(command);
  command.state = Command::State::free;
  if (command.task.data) receiver_.forget(command.task.data.data(), command.task.data.capacity());
  // The mail of a stop that came too late is still on its way: stop_told() goes on.
  const bool awaits_mail = command.task.stop_told && !command.stop_arrived;
  command.task.reset();
  if (!awaits_mail) recycle(command);
}

void Session::recycle(Command& command) noexcept {
  command.next_of_tag = free_;
  free_ = &command;
  --in_use_;
  counts_.in_flight.store(static_cast<std::uint32_t>(in_use_), std::memory_order_relaxed);
  if (closing_) check_over();
}

void Session::ended(Command& command) {
  stepped(command, TaskStep::ended);
}

void Session::go_on(Command& command) {
  stepped(command, nexus_->run_again(command.task));
}

void Session::stop_told(Command& command) {
  command.stop_arrived = true;
  if (command.state == Command::State::free) return recycle(command);
  if (command.state != Command::State::receiving) return;
  receiver_.forget(command.task.data.data(), command.task.data.capacity());
  nexus_->abandon(command.task);
  give_up(command);
}

}  // namespace blockloom::iscsi
