// Task management, and the end of a session (RFC 7143 11.5, 11.6; SAM-5 chapter 7).
#include <algorithm>
#include <utility>

#include "server/iscsi/session.hpp"

namespace blockloom::iscsi {
namespace {

/// Functions that may wait at one time.
constexpr std::size_t max_managing = 16;

}  // namespace

ManagedTask::ManagedTask(Session& owner) : session(owner) {
  mail.owner = this;
  mail.deliver = [](Mail& m) noexcept {
    auto& self = *static_cast<ManagedTask*>(m.owner);
    self.session.managed(self);
  };
  management.owner = this;
  management.complete = [](TaskManagement& m) noexcept {
    auto& self = *static_cast<ManagedTask*>(m.owner);
    self.session.mailbox().push(self.mail);
  };
}

void Session::answer_management(std::uint32_t itt, iscsi::TaskResponse response) {
  Bhs header = make_response(Opcode::task_management_response, itt, {});
  header.set8(2, static_cast<std::uint8_t>(response));
  send(header);
}

void Session::task_management() {
  const std::uint32_t itt = header_.itt();
  const unsigned function = header_.u8(1) & 0x7f;
  if (discovery_ || logging_out_) return reject(RejectReason::protocol_error, header_);
  if (function == static_cast<unsigned>(iscsi::TaskFunction::task_reassign))
    return answer_management(itt, iscsi::TaskResponse::no_reassign);
  if (function < 1 || function > 8)
    return answer_management(itt, iscsi::TaskResponse::not_supported);
  if (managing_ >= max_managing) return answer_management(itt, iscsi::TaskResponse::rejected);
  Command* referenced = nullptr;
  if (function == static_cast<unsigned>(iscsi::TaskFunction::abort_task)) {
    referenced = find(header_.ttt());  // the referenced task's tag has that place
    if (referenced == nullptr || referenced->state == Command::State::answering ||
        referenced->state == Command::State::free)
      return answer_management(itt, iscsi::TaskResponse::no_task);
    if (referenced->state == Command::State::draining) {
      give_up(*referenced);
      return answer_management(itt, iscsi::TaskResponse::complete);
    }
  }
  manage(header_, header_.lun(), referenced);
}

void Session::manage(const Bhs& request, std::uint64_t lun, Command* referenced) {
  auto managed_task = std::make_unique<ManagedTask>(*this);
  managed_task->itt = request.itt();
  TaskManagement& management = managed_task->management;
  management.function = static_cast<blockloom::TaskFunction>(request.u8(1) & 0x7f);
  management.lun = lun;
  management.task = referenced != nullptr ? &referenced->task : nullptr;
  ++managing_;
  ManagedTask& task = *managed_task.release();  // managed() takes it back
  if (nexus_->manage(task.management) == Submit::done) managed(task);
}

void Session::managed(ManagedTask& done) {
  if (&done == loss_.get()) {
    lost_ = true;
    if (logging_out_ && !closing_) return answer_logout();
    return check_over();
  }
  const std::unique_ptr<ManagedTask> mine(&done);
  --managing_;
  if (closing_) return check_over();
  answer_management(done.itt, static_cast<iscsi::TaskResponse>(done.management.response));
  if (done.management.function == blockloom::TaskFunction::target_cold_reset)
    host_.target_was_reset();
}

void Session::nexus_lost() {
  if (loss_ || lost_) return;
  if (!nexus_) {
    lost_ = true;
    return;
  }
  loss_ = std::make_unique<ManagedTask>(*this);
  loss_->management.function = blockloom::TaskFunction::nexus_loss;
  if (nexus_->manage(loss_->management) == Submit::done) managed(*loss_);
}

void Session::close() {
  if (closing_) return;
  closing_ = true;
  current_ = nullptr;
  kind_ = Kind::ignored;
  for (const auto& command : commands_)
    if (command->state == Command::State::draining) give_up(*command);
  nexus_lost();
  check_over();
}

void Session::check_over() {
  if (!closing_ || !lost_ || in_use_ > 0 || managing_ > 0 || over_) return;
  over_ = true;
  host_.session_over();
}

void Session::unit_attention(std::uint64_t lun, std::span<const std::uint8_t> sense) noexcept {
  const bool descriptor = sense.size() >= 8 && (sense[0] & 0x7f) >= 0x72;
  if (sense.size() < (descriptor ? 8U : 14U)) return;
  const unsigned code =
      descriptor ? unsigned{sense[2]} << 8 | sense[3] : unsigned{sense[12]} << 8 | sense[13];
  // What an initiator should look into at once: capacity, and the list of LUNs. The rest it hears
  // with its next command.
  if (code != 0x2a09 && code != 0x3f0e) return;
  std::string data{static_cast<char>(0), static_cast<char>(sense.size())};
  data.append(sense.begin(), sense.end());
  host_.mailbox().post([this, lun, alive = std::weak_ptr(alive_), text = std::move(data)] {
    if (alive.expired() || closing_ || logging_out_) return;
    Bhs header = make_async(AsyncEvent::scsi, {}, 0, 0, 0);
    header.set64(8, lun);
    send(header, text);
  });
}

}  // namespace blockloom::iscsi
