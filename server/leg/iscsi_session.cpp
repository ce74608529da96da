// A session's life: connecting, tasks that come and go, closing. Sending and receiving have files
// of their own.
#include "server/leg/iscsi_session.hpp"

#include <algorithm>
#include <cassert>
#include <cerrno>

#include <fcntl.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <unistd.h>

namespace blockloom {
namespace {

constexpr std::uint32_t managed_tags = 0x8000'0000;
constexpr std::uint32_t logout_tag = 0x4000'0000;

template <class List>
void append(List*& first, List*& last, List& item, List* List::*next) {
  item.*next = nullptr;
  (first == nullptr ? first : last->*next) = &item;
  last = &item;
}

template <class List>
bool remove(List*& first, List*& last, List& item, List* List::*next) {
  List* before = nullptr;
  for (List* at = first; at != nullptr; before = at, at = at->*next) {
    if (at != &item) continue;
    (before == nullptr ? first : before->*next) = at->*next;
    if (last == at) last = before;
    return true;
  }
  return false;
}

void set_option(int fd, int level, int option, int value) {
  // What a kernel lacks of these costs speed, nothing else.
  static_cast<void>(setsockopt(fd, level, option, &value, sizeof value));
}

}  // namespace

IscsiSession::IscsiSession(const IscsiUri& uri, std::string initiator, Isid isid)
    : uri_(uri),
      login_(std::make_unique<IscsiLogin>(uri, std::move(initiator), isid)),
      slots_(uri.queue_depth),
      uses_(uri.queue_depth),
      received_(receive_buffer),
      last_received_(Clock::now()) {
  for (std::size_t i = uri.queue_depth; i-- > 0;)
    free_.push_back(static_cast<std::uint16_t>(i));
}

IscsiSession::~IscsiSession() {
  close({Errc::shutdown, "closed"});
  assert(tasks() == 0);
}

void IscsiSession::connect(const sockaddr_storage& address, socklen_t length) {
  fd_ = socket(address.ss_family, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
  if (fd_ < 0) return close(system_error("socket", errno));
  set_option(fd_, IPPROTO_TCP, TCP_NODELAY, 1);
  set_option(fd_, SOL_SOCKET, SO_KEEPALIVE, 1);
  if (::connect(fd_, reinterpret_cast<const sockaddr*>(&address), length) != 0 &&
      errno != EINPROGRESS)
    close(system_error("connect", errno));
}

short IscsiSession::events() const noexcept {
  if (state_ == State::closed) return 0;
  if (state_ == State::connecting) return POLLOUT;
  return static_cast<short>(POLLIN | (piece_ < piece_count_ ? POLLOUT : 0));
}

void IscsiSession::handle(short revents) noexcept {
  if (state_ == State::connecting && revents != 0) {
    int error = 0;
    socklen_t length = sizeof error;
    if (getsockopt(fd_, SOL_SOCKET, SO_ERROR, &error, &length) != 0) error = errno;
    if (error != 0) return close(system_error("connect", error));
    state_ = State::login;
    send_login();
  } else if ((revents & (POLLIN | POLLERR | POLLHUP)) != 0) {
    receive();
  }
  send();
}

bool IscsiSession::take_back(IscsiTask& task) noexcept {
  if (task.state_ != IscsiTask::State::queued) return false;
  remove(queue_, queue_last_, task, &IscsiTask::next_);
  task.end = IscsiTask::End::unsent;
  finish(task);
  return true;
}

void IscsiSession::start(IscsiTask& task) noexcept {
  assert(has_room() && task.state_ == IscsiTask::State::idle);
  const std::uint16_t place = free_.back();
  free_.pop_back();
  slots_[place] = &task;
  // 14 bits, so that no task has the tags of task management, or the one that means none.
  uses_[place] = static_cast<std::uint16_t>((uses_[place] + 1) & 0x3fff);
  task.tag_ = std::uint32_t{uses_[place]} << 16 | place;
  task.end = IscsiTask::End::answered;
  task.response = task.status = task.sense_length = 0;
  task.transferred = 0;
  task.final_status_ = false;
  task.pins_ = task.burst_count_ = 0;
  task.data_sn_ = task.r2t_sn_ = 0;
  if (state_ != State::ready) {
    task.end = IscsiTask::End::unsent;
    return finish(task);
  }
  task.state_ = IscsiTask::State::queued;
  append(queue_, queue_last_, task, &IscsiTask::next_);
}

IscsiTask* IscsiSession::find(std::uint32_t tag) noexcept {
  const std::size_t place = tag & 0xffff;
  if (place >= slots_.size() || slots_[place] == nullptr) return nullptr;
  IscsiTask* task = slots_[place];
  return task->tag_ == tag && task->state_ == IscsiTask::State::sent ? task : nullptr;
}

/// The task has its end; it is given back once no PDU of it is being sent any more, because until
/// then its data is read.
void IscsiSession::finish(IscsiTask& task) noexcept {
  remove(outgoing_, outgoing_last_, task, &IscsiTask::next_);
  task.burst_count_ = 0;
  task.state_ = IscsiTask::State::ended;
  if (task.pins_ == 0) append(ended_, ended_last_, task, &IscsiTask::next_);
}

IscsiTask* IscsiSession::take_ended() noexcept {
  IscsiTask* task = ended_;
  if (task == nullptr) return nullptr;
  ended_ = task->next_;
  if (ended_ == nullptr) ended_last_ = nullptr;
  release_slot(*task);
  return task;
}

void IscsiSession::release_slot(IscsiTask& task) noexcept {
  const auto place = static_cast<std::uint16_t>(task.tag_ & 0xffff);
  slots_[place] = nullptr;
  free_.push_back(place);
  task.state_ = IscsiTask::State::idle;
  task.next_ = nullptr;
}

std::size_t IscsiSession::unanswered() const noexcept {
  return static_cast<std::size_t>(std::count_if(slots_.begin(), slots_.end(), [](const auto* t) {
    return t != nullptr && t->state_ == IscsiTask::State::sent;
  }));
}

std::uint32_t IscsiSession::manage(iscsi::TaskFunction function,
                                   const IscsiTask* reference) noexcept {
  if (state_ != State::ready || managing_.size() >= max_control) return 0;
  Control control;
  Bhs& bhs = control.header;
  const std::uint32_t tag = managed_tags | (++next_managed_ & 0xffff);
  bhs.set8(0, static_cast<std::uint8_t>(iscsi::Opcode::task_management) | 0x40);
  bhs.set8(1, static_cast<std::uint8_t>(iscsi::flag::final | static_cast<unsigned>(function)));
  // A target reset names no LUN.
  if (function <= iscsi::TaskFunction::logical_unit_reset) put_lun(bhs);
  bhs.set32(16, tag);
  bhs.set32(20, reference != nullptr ? reference->tag_ : iscsi::no_tag);
  bhs.set32(32, reference != nullptr ? reference->cmd_sn_ : 0);
  if (!push_control(std::move(control))) return 0;
  managing_.push_back(tag);
  return tag;
}

std::optional<IscsiSession::Managed> IscsiSession::take_managed() noexcept {
  if (managed_.empty()) return std::nullopt;
  const Managed managed = managed_.front();
  managed_.pop_front();
  return managed;
}

void IscsiSession::forget(IscsiTask& task) noexcept {
  if (task.state_ != IscsiTask::State::sent) return;
  // What was read into it so far is nobody's; the target sends no more of it.
  if (data_in_.task == &task) return close({Errc::io, "the target answers an aborted command"});
  task.end = IscsiTask::End::unsent;
  finish(task);
}

void IscsiSession::ping() noexcept {
  if (state_ != State::ready) return;
  Control control;
  control.header.set8(0, static_cast<std::uint8_t>(iscsi::Opcode::nop_out) | 0x40);
  control.header.set8(1, iscsi::flag::final);
  control.header.set32(16, logout_tag | 1);
  control.header.set32(20, iscsi::no_tag);
  push_control(std::move(control));
}

void IscsiSession::logout() noexcept {
  if (state_ != State::ready) return close({Errc::shutdown, "closed"});
  Control control;
  control.header.set8(0, static_cast<std::uint8_t>(iscsi::Opcode::logout) | 0x40);
  control.header.set8(1, iscsi::flag::final);  // reason 0: the session
  control.header.set32(16, logout_tag);
  push_control(std::move(control));
  logging_out_ = true;
}

std::optional<disk::Sense> IscsiSession::take_event() noexcept {
  return std::exchange(event_, std::nullopt);
}

void IscsiSession::close(Error reason) noexcept {
  if (state_ == State::closed) return;
  state_ = State::closed;
  error_ = std::move(reason);
  if (fd_ >= 0) {
    if (!logging_out_) {
      // No more of what lies in the socket's buffer is sent.
      const linger hard{1, 0};
      static_cast<void>(setsockopt(fd_, SOL_SOCKET, SO_LINGER, &hard, sizeof hard));
    }
    ::close(fd_);
    fd_ = -1;
  }
  piece_ = piece_count_ = 0;
  data_in_.task = nullptr;
  control_.clear();
  managing_.clear();
  queue_ = queue_last_ = outgoing_ = outgoing_last_ = nullptr;
  for (IscsiTask* task : slots_) {
    if (task == nullptr) continue;
    const bool waits = task->pins_ > 0;
    task->pins_ = 0;
    if (task->state_ == IscsiTask::State::ended) {
      if (waits) finish(*task);
      continue;
    }
    task->end =
        task->state_ == IscsiTask::State::queued ? IscsiTask::End::unsent : IscsiTask::End::unknown;
    finish(*task);
  }
}

void IscsiSession::broken(std::string_view what) noexcept {
  close({Errc::io, std::string("the target breaks the protocol: ").append(what)});
}

}  // namespace blockloom
