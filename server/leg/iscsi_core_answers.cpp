// What the disk answers, and how requests end.
#include <algorithm>
#include <cassert>
#include <cstring>

#include <fmt/format.h>

#include "proto/scsi/status.hpp"
#include "server/base/log.hpp"
#include "server/leg/iscsi_core.hpp"
#include "server/leg/late_writes.hpp"

namespace blockloom {
namespace {

using Kind = IscsiCommand::Kind;
using Direction = IscsiTask::Direction;

constexpr Duration short_pause = std::chrono::milliseconds(5);
constexpr Duration long_pause = std::chrono::milliseconds(500);
constexpr unsigned most_attentions = 16, most_aborts = 8, most_refusals = 40;

/// Whether the disk's contents may change after this command was sent.
bool modifies(const IscsiCommand& command) {
  return command.kind == Kind::unmap || command.kind == Kind::write_same ||
         (command.kind == Kind::transfer && command.direction == Direction::out);
}

}  // namespace

// --- Answers ----------------------------------------------------------------------------------

/// Takes everything that the session has for us. On the leg's thread.
void IscsiCore::drain() noexcept {
  if (!session_) return;
  while (const auto managed = session_->take_managed())
    take_managed(*managed);  // it may end tasks
  for (IscsiTask* task; (task = session_->take_ended()) != nullptr;) {
    if (probe_ && probe_->owns(*task)) {
      const auto step = probe_->take(*task);
      if (step == DiskProbe::Step::working) continue;
      if (step == DiskProbe::Step::failed) session_->close({Errc::io, probe_->error().message});
      probe_.reset();
      continue;
    }
    auto& command = static_cast<IscsiCommand&>(*task);
    command.inside = false;
    if (&command == &capacity_)
      capacity_ended(command);
    else
      command_ended(command);
  }
  if (const auto event = session_->take_event()) note_event(*event);
}

void IscsiCore::command_ended(IscsiCommand& command) noexcept {
  IscsiRequest& request = *command.request;
  Verdict verdict;
  if (command.end == IscsiTask::End::answered) {
    verdict = judge(command);
    // A request that is over sends nothing more; the target did nothing of this.
    if (verdict.again && request.stop) {
      verdict = {};
      request.unsent = true;
    } else if (!verdict.again && verdict.status == Errc::ok) {
      request.any_done = true;
    }
  } else {
    const bool unknown = command.end == IscsiTask::End::unknown;
    if (unknown && modifies(command)) {
      unresolved_ = true;
      if (!controlled_) LateWrites::get().add(storage_);
    }
    if (request.stop || controlled_ || stopping_) {
      (unknown ? request.unknown : request.unsent) = true;
      request.stop = true;
    } else if (command.kind == Kind::synchronize && disk_.write_cache &&
               answered_writes_ != flushed_writes_) {
      // With the next session it would be about what is left, not about what was answered.
      verdict.status = Errc::io;
      flushed_writes_ = answered_writes_;
    } else {
      verdict.again = true;  // with the next session
    }
  }
  if (verdict.again) {
    ++command.tries;
    command.not_before = verdict.pause > Duration{} ? Clock::now() + verdict.pause : TimePoint{};
    command.abort_tag = 0;
    waiting_.push_back(&command);  // reserved: as many as there are commands
    return;
  }
  if (verdict.status != Errc::ok) {
    if (request.status == Errc::ok) request.status = verdict.status;
    request.stop = true;
  }
  command.request = nullptr;
  command.next = free_;
  free_ = &command;
  --request.outstanding;
  advance(request);
}

IscsiCore::Verdict IscsiCore::again(IscsiCommand& command, unsigned most,
                                    Duration pause) const noexcept {
  if (command.tries >= most) return {false, Errc::busy, {}};
  return {true, Errc::ok, std::min(long_pause, pause * (1U << std::min(command.tries, 7U)))};
}

IscsiCore::Verdict IscsiCore::judge(IscsiCommand& command) noexcept {
  // 11.4.3: the target failed before the command got an answer.
  if (command.response != 0) {
    Verdict verdict = again(command, 3, short_pause);
    if (!verdict.again) verdict.status = Errc::io;
    return verdict;
  }
  switch (scsi::Status{command.status}) {
    case scsi::Status::good:
    case scsi::Status::condition_met:
      if (command.direction == Direction::in && command.kind != Kind::lba_status &&
          command.transferred != command.length)
        return {false, Errc::io, {}};  // less than was asked for
      take_data(command);
      return {};
    case scsi::Status::check_condition:
      if (const auto sense = disk::parse_sense({command.sense.data(), command.sense_length}))
        return judge_sense(command, *sense);
      return {false, Errc::io, {}};
    case scsi::Status::busy:
    case scsi::Status::task_set_full:
      return again(command, most_refusals, short_pause);
    case scsi::Status::task_aborted:
      return again(command, most_aborts, short_pause);
    case scsi::Status::reservation_conflict:
      if (may_log())
        log_error(fmt::format("leg {}: another initiator has reserved the LUN", quoted(name_)));
      return {false, Errc::permission, {}};
    default:
      return {false, Errc::io, {}};
  }
}

IscsiCore::Verdict IscsiCore::judge_sense(IscsiCommand& command,
                                          const disk::Sense& sense) noexcept {
  switch (sense.key) {
    case 0:
    case disk::key::recovered:
      if (command.direction == Direction::in && command.transferred != command.length)
        return {false, Errc::io, {}};
      take_data(command);
      return {};
    case disk::key::unit_attention:
      note_event(sense);
      return again(command, most_attentions, Duration{});
    case disk::key::not_ready:
      if (sense.code == 0x0401) return again(command, most_refusals, short_pause);
      return {false, Errc::io, {}};
    case disk::key::aborted:
      return again(command, most_aborts, short_pause);
    case disk::key::illegal_request:
      if (sense.code == 0x2100) return {false, Errc::out_of_range, {}};
      return unsupported(command);
    case disk::key::data_protect:
      return {false, sense.code == 0x2707 ? Errc::no_space : Errc::read_only, {}};
    default:
      return {false, Errc::io, {}};
  }
}

/// The disk does not know the command, or not this form of it: another way is found, if there is
/// one, and it is not tried again.
IscsiCore::Verdict IscsiCore::unsupported(IscsiCommand& command) noexcept {
  IscsiRequest& request = *command.request;
  switch (command.kind) {
    case Kind::unmap:
      disk_.can_unmap = disk_.can_unmap_same_16 = disk_.can_unmap_same_10 = false;
      return {};  // trim is a hint
    case Kind::write_same:
      if (command.cdb[1] != 0) {
        disk_.can_unmap_same_16 = false;  // without UNMAP, then
      } else {
        can_write_same_ = false;
        if (request.io->has(io_flag::fast)) return {false, Errc::not_supported, {}};
      }
      request.at = command.at;
      return {};
    case Kind::lba_status:
      can_lba_status_ = false;
      request.io->extents->add({Bytes(command.bytes), false, false});
      return {};
    case Kind::synchronize:
      // Without a cache there is nothing to write back.
      if (disk_.write_cache) return {false, Errc::not_supported, {}};
      return {};
    default:
      return {false, Errc::io, {}};
  }
}

/// What a read brought goes where it belongs.
void IscsiCore::take_data(IscsiCommand& command) noexcept {
  if (modifies(command) && !(command.request->io->has(io_flag::fua) && disk_.fua))
    ++answered_writes_;
  if (command.kind == Kind::synchronize) flushed_writes_ = std::max(flushed_writes_, command.at);
  if (command.kind == Kind::lba_status) return take_lba_status(command);
  IscsiRequest& request = *command.request;
  if (command.kind != Kind::transfer || request.io->op != Op::read || !request.unaligned) return;
  const std::uint64_t start = request.io->offset.value;
  const std::uint64_t from = std::max(command.at, start);
  const std::uint64_t to =
      std::min(command.at + command.bytes, (request.io->offset + request.io->length).value);
  std::memcpy(request.io->data + (from - start), command.data + (from - command.at), to - from);
}

void IscsiCore::take_lba_status(IscsiCommand& command) noexcept {
  IscsiRequest& request = *command.request;
  const Io& io = *request.io;
  const std::uint64_t block = disk_.block_size;
  const auto* bytes = reinterpret_cast<const std::uint8_t*>(command.data);
  std::uint64_t at = std::max(command.at, io.offset.value);
  const std::uint64_t end = (io.offset + io.length).value;
  for (const auto& run : disk::parse_lba_status({bytes, command.transferred}, command.at / block)) {
    const std::uint64_t last = run.range.lba + run.range.blocks;
    const std::uint64_t stop = last > end / block ? end : std::min(end, last * block);
    if (stop <= at) break;
    const bool hole = run.state == 1, zero = run.state != 0 && disk_.unmapped_is_zero;
    if (!io.extents->add({Bytes(stop - at), hole, zero})) return;
    at = stop;
    if (io.has(io_flag::one_extent)) return;
  }
  if (at == std::max(command.at, io.offset.value)) {
    // An answer that says nothing: all of it is taken as data.
    io.extents->add({Bytes(end - at), false, false});
  } else if (at < end && !io.extents->full()) {
    request.at = round_down(at, block);
  }
}

/// A command of the request has ended: what next?
void IscsiCore::advance(IscsiRequest& request) noexcept {
  using Step = IscsiRequest::Step;
  if (request.outstanding > 0) return;
  const Io& io = *request.io;
  if (request.stop) return end_request(request);
  if (request.step == Step::edges) {
    const std::uint64_t start = io.offset.value, end = (io.offset + io.length).value;
    const std::uint64_t block = disk_.block_size;
    if (request.at != request.low) {  // the second edge had no room
      IscsiCommand& command = new_command(request, Kind::edge_read, request.high - block, block);
      command.direction = Direction::in;
      command.data = request.spare.data() + block;
      command.length = disk_.block_size;
      command.cdb = disk::read(command.at / block, 1);
      request.at = request.low;
      waiting_.push_back(&command);
      return;
    }
    const auto patch = [&](std::uint64_t at, std::byte* into) {
      const std::uint64_t from = std::max(at, start), to = std::min(at + block, end);
      if (io.op == Op::zero)
        std::memset(into + (from - at), 0, to - from);
      else
        std::memcpy(into + (from - at), io.data + (from - start), to - from);
    };
    if (start != request.low) patch(request.low, request.spare.data());
    if (end != request.high) patch(request.high - block, request.spare.data() + block);
    request.step = Step::main;
    return make_ready(request);
  }
  if (request.at < request.high && request.step == Step::main) return make_ready(request);
  // Without FUA in the commands themselves the cache is written back.
  const bool fua_done = io.op == Op::write && disk_.fua;
  if (request.step == Step::main && io.has(io_flag::fua) && !fua_done && disk_.write_cache) {
    request.step = Step::flush;
    return make_ready(request);
  }
  end_request(request);
}

/// The request is over; it is completed once the lock is released.
void IscsiCore::end_request(IscsiRequest& request) noexcept {
  if (request.listed) {
    IscsiRequest* before = nullptr;
    for (IscsiRequest* at = ready_; at != &request; at = at->next_ready)
      before = at;
    (before == nullptr ? ready_ : before->next_ready) = request.next_ready;
    if (ready_last_ == &request) ready_last_ = before;
    request.listed = false;
  }
  if (request.unknown) {
    request.status = end_unknown;
  } else if (request.expired) {
    request.status = Errc::timed_out;
  } else if (request.status == Errc::ok && request.unsent) {
    // Half of a write is neither: it has failed.
    request.status = request.any_done && request.io->modifies() ? Errc::io
                     : stopping_                                ? Errc::shutdown
                                                                : Errc::cancelled;
  }
  if (request.unaligned) --unaligned_;
  finished_.splice(finished_.end(), active_, request.self);
}

/// It sends nothing more, and what was not sent is taken back. True: nothing of it is out, and it
/// has ended.
bool IscsiCore::stop_request(IscsiRequest& request) noexcept {
  request.stop = true;
  using Step = IscsiRequest::Step;
  if (request.at < request.high || request.step == Step::edges ||
      (request.step == Step::flush && request.outstanding == 0))
    request.unsent = true;
  for (IscsiCommand& command : commands_)
    if (command.request == &request && command.inside) session_->take_back(command);
  std::erase_if(waiting_, [&](IscsiCommand* command) {
    if (command->request != &request) return false;
    request.unsent = true;
    command->request = nullptr;
    command->next = free_;
    free_ = command;
    --request.outstanding;
    return true;
  });
  if (request.outstanding > 0) return false;
  end_request(request);
  return true;
}

void IscsiCore::stop_requests() noexcept {
  for (auto at = active_.begin(); at != active_.end();)
    stop_request(*at++);
}

/// A target can make us say the same again and again.
bool IscsiCore::may_log() noexcept {
  const TimePoint now = Clock::now();
  if (now - logged_ < std::chrono::seconds(10)) return false;
  logged_ = now;
  return true;
}

// --- What the disk tells by itself ------------------------------------------------------------

void IscsiCore::note_event(const disk::Sense& sense) noexcept {
  if (sense.code == 0x2a09) {
    check_capacity_ = true;
  } else if (controlled_ && open_ &&
             (sense.code == 0x2900 || sense.code == 0x2901 || sense.code == 0x2904)) {
    // S1: what it had acknowledged and not written back may be gone, as with the session.
    session_->close({Errc::io, fmt::format("the LUN was reset: {}", disk::to_string(sense))});
  } else if (may_log()) {
    log_info(fmt::format("leg {}: {}", quoted(name_), disk::to_string(sense)));
  }
}

void IscsiCore::capacity_ended(const IscsiCommand& command) noexcept {
  if (command.end != IscsiTask::End::answered ||
      scsi::Status{command.status} != scsi::Status::good) {
    // Another unit attention came first, perhaps.
    check_capacity_ =
        command.end == IscsiTask::End::answered && ++capacity_.tries < most_attentions;
    return;
  }
  disk::Traits found = disk_;
  const auto* bytes = reinterpret_cast<const std::uint8_t*>(command.data);
  if (!disk::take_capacity_16({bytes, command.transferred}, found) ||
      found.block_size != disk_.block_size || found.blocks == disk_.blocks)
    return;
  const std::uint64_t block = disk_.block_size;
  const std::string change = fmt::format(
      "leg {}: the LUN has {} from {} to {} bytes", quoted(name_),
      found.blocks > disk_.blocks ? "grown" : "shrunk", disk_.blocks * block, found.blocks * block);
  disk_.blocks = found.blocks;
  if (found.blocks * block < size_.value)
    log_error(change + ": what lies behind its end cannot be reached any more");
  else
    log_info(change + ": load the table again to use its new size");
}

}  // namespace blockloom
