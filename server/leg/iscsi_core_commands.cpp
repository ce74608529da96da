// Requests become SCSI commands here.
#include <algorithm>
#include <cassert>
#include <cstring>

#include "server/leg/iscsi_core.hpp"
#include "server/leg/zero_bytes.hpp"

namespace blockloom {
namespace {

using Kind = IscsiCommand::Kind;
using Direction = IscsiTask::Direction;

constexpr std::uint32_t status_descriptors = 63;
constexpr std::uint32_t status_length = 8 + 16 * status_descriptors;
constexpr std::uint64_t bounce_size = 256 << 10;  // of an unaligned read
/// What one UNMAP or WRITE SAME is for at most where the disk names no limit: they take time.
constexpr std::uint64_t most_trimmed = 1ULL << 30;
constexpr std::uint64_t most_zeroed = 128ULL << 20;

}  // namespace

// --- Taking requests --------------------------------------------------------------------------

/// What needs no command.
std::optional<Errc> IscsiCore::without_commands(Io& io) const noexcept {
  if (io.op == Op::cache) return Errc::ok;  // a hint
  if (io.op == Op::extents && (!disk_.provisioned || !can_lba_status_)) {
    io.extents->add({io.length, false, false});
    return Errc::ok;
  }
  const bool can_trim = disk_.can_unmap || disk_.can_unmap_same_16 || disk_.can_unmap_same_10;
  const std::uint64_t first = round_up(io.offset.value, disk_.block_size);
  const std::uint64_t end = round_down((io.offset + io.length).value, disk_.block_size);
  if (io.op == Op::trim && (!can_trim || first >= end)) return Errc::ok;
  if (io.op == Op::zero && io.has(io_flag::fast) &&
      (!can_write_same_ || !aligned(io.offset.value) || !aligned(io.length.value)))
    return Errc::not_supported;
  return std::nullopt;
}

IscsiRequest& IscsiCore::add_request(Io& io) {
  if (idle_.empty()) {
    idle_.emplace_front();
    idle_.front().self = idle_.begin();
  }
  IscsiRequest& request = idle_.front();
  auto spare = std::move(request.spare);
  const auto self = request.self;
  request = IscsiRequest();
  request.spare = std::move(spare);
  request.self = self;
  request.io = &io;
  if (!controlled_) request.deadline = Clock::now() + uri_.timeout;
  const std::uint64_t start = io.offset.value, end = (io.offset + io.length).value;
  const std::uint64_t block = disk_.block_size;
  const bool inward = io.op == Op::trim;  // whole blocks inside the range
  request.low = inward ? round_up(start, block) : round_down(start, block);
  request.high = inward ? round_down(end, block) : round_up(end, block);
  request.unaligned = !inward && (start != request.low || end != request.high);
  request.at = request.low;
  if (request.unaligned && request.io->modifies()) {
    request.step = IscsiRequest::Step::edges;
    request.spare.resize(2 * block);
  }
  if (io.op == Op::flush) request.step = IscsiRequest::Step::flush;
  if (request.unaligned) ++unaligned_;
  active_.splice(active_.end(), idle_, self);
  make_ready(request);
  return request;
}

void IscsiCore::make_ready(IscsiRequest& request) noexcept {
  if (request.listed) return;
  request.listed = true;
  request.next_ready = nullptr;
  (ready_ == nullptr ? ready_ : ready_last_->next_ready) = &request;
  ready_last_ = &request;
}

/// Sends what can be sent.
void IscsiCore::pump() noexcept {
  if (!flowing_ || !session_ || session_->state() != IscsiSession::State::ready) return;
  if (!waiting_.empty()) {
    const TimePoint now = Clock::now();
    std::erase_if(waiting_, [&](IscsiCommand* command) {
      if (command->not_before > now || !session_->has_room()) return false;
      begin(*command);
      return true;
    });
  }
  IscsiRequest* before = nullptr;
  for (IscsiRequest* at = ready_; at != nullptr && free_ != nullptr && session_->has_room();) {
    const Issue result = issue(*at);
    if (result == Issue::issued) continue;
    IscsiRequest* const next = at->next_ready;
    if (result == Issue::failed) {
      end_request(*at);  // takes it off the list
    } else if (result == Issue::blocked) {
      before = at;
    } else {
      (before == nullptr ? ready_ : before->next_ready) = next;
      if (ready_last_ == at) ready_last_ = before;
      at->listed = false;
    }
    at = next;
  }
  session_->send();
}

/// Whether an earlier request has to end first: one of the two rewrites a block that both touch.
bool IscsiCore::conflicts(const IscsiRequest& request) const noexcept {
  if (unaligned_ == 0 || !request.io->modifies()) return false;
  for (const IscsiRequest& other : active_) {
    if (&other == &request) return false;
    if (other.io->modifies() && (other.unaligned || request.unaligned) &&
        other.low < request.high && request.low < other.high)
      return true;
  }
  return false;
}

IscsiCore::Issue IscsiCore::issue(IscsiRequest& request) {
  if (request.stop) return Issue::exhausted;
  if (!request.started) {
    if (conflicts(request)) return Issue::blocked;
    request.started = true;
  }
  if (request.step == IscsiRequest::Step::edges) {
    if (request.outstanding == 0) issue_edges(request);
    return Issue::exhausted;
  }
  if (request.step == IscsiRequest::Step::flush) {
    if (request.outstanding > 0) return Issue::exhausted;
    if (request.io->op == Op::flush && flush_fails_) {
      flush_fails_ = false;
      request.status = Errc::io;
      request.stop = true;
      return Issue::failed;
    }
    const bool wide = disk_.blocks > 0xffff'ffff;
    IscsiCommand& command = new_command(request, Kind::synchronize, 0, 0);
    command.cdb = disk::synchronize_cache(wide);
    command.at = answered_writes_;
    request.at = request.high;
    begin(command);
    return Issue::exhausted;
  }
  if (request.at >= request.high || (request.in_turn() && request.outstanding > 0))
    return Issue::exhausted;
  switch (request.io->op) {
    case Op::trim:
      return issue_trim(request) ? Issue::issued : Issue::exhausted;
    case Op::extents:
      issue_lba_status(request);
      return Issue::issued;
    case Op::zero:
      if (issue_write_same(request)) return Issue::issued;
      break;
    default:
      break;
  }
  issue_transfer(request);
  return Issue::issued;
}

IscsiCommand& IscsiCore::new_command(IscsiRequest& request, Kind kind, std::uint64_t at,
                                     std::uint64_t bytes) {
  IscsiCommand& command = *free_;
  free_ = command.next;
  command.next = nullptr;
  command.kind = kind;
  command.request = &request;
  command.at = at;
  command.bytes = bytes;
  command.tries = 0;
  command.not_before = {};
  command.abort_tag = 0;
  command.direction = Direction::none;
  command.data = nullptr;
  command.length = 0;
  ++request.outstanding;
  return command;
}

void IscsiCore::begin(IscsiCommand& command) noexcept {
  command.inside = true;
  session_->start(command);
}

void IscsiCore::issue_transfer(IscsiRequest& request) {
  const Io& io = *request.io;
  const std::uint64_t start = io.offset.value, end = (io.offset + io.length).value;
  const std::uint64_t block = disk_.block_size, at = request.at;
  const bool writes = io.op != Op::read;
  std::uint64_t bytes = std::min(request.high - at, most_bytes_);
  std::byte* data = nullptr;
  if (!request.unaligned) {
    if (io.op == Op::zero) bytes = std::min<std::uint64_t>(bytes, zero_bytes_size);
    data = io.op == Op::zero ? zero_bytes : io.data + (at - start);
  } else if (!writes) {
    bytes = std::min(bytes, std::max(block, round_down(bounce_size, block)));
    if (request.spare.size() < bytes) request.spare.resize(bytes);
    data = request.spare.data();
  } else if (at < start || at + block > end) {  // a block at an end, patched
    bytes = block;
    data = request.spare.data() + (at < start ? 0 : block);
  } else {
    bytes = std::min({bytes, round_down(end, block) - at,
                      io.op == Op::zero ? std::uint64_t{zero_bytes_size} : bytes});
    data = io.op == Op::zero ? zero_bytes : io.data + (at - start);
  }
  IscsiCommand& command = new_command(request, Kind::transfer, at, bytes);
  command.direction = writes ? Direction::out : Direction::in;
  command.data = data;
  command.length = static_cast<std::uint32_t>(bytes);
  const std::uint64_t lba = at / block;
  command.cdb = writes ? disk::write(lba, blocks(bytes), io.has(io_flag::fua) && disk_.fua)
                       : disk::read(lba, blocks(bytes));
  request.at += bytes;
  begin(command);
}

/// Reads the blocks around the ends of an unaligned write.
void IscsiCore::issue_edges(IscsiRequest& request) {
  const std::uint64_t start = request.io->offset.value, block = disk_.block_size;
  const std::uint64_t last = request.high - block;
  const auto ask = [&](std::uint64_t at, std::size_t place) {
    IscsiCommand& command = new_command(request, Kind::edge_read, at, block);
    command.direction = Direction::in;
    command.data = request.spare.data() + place;
    command.length = static_cast<std::uint32_t>(block);
    command.cdb = disk::read(at / block, 1);
    begin(command);
  };
  const bool head = start != request.low;
  if (head) ask(request.low, 0);
  const bool tail = (request.io->offset + request.io->length).value != request.high &&
                    !(head && last == request.low);
  // The pool may have room for one only; the other one comes with the next answer.
  if (tail && free_ != nullptr && session_->has_room()) {
    ask(last, block);
  } else if (tail) {
    request.any_done = false;
    request.at = request.low + 1;  // asks again: see advance()
  }
}

bool IscsiCore::issue_trim(IscsiRequest& request) {
  const std::uint64_t block = disk_.block_size;
  const bool by_unmap = disk_.can_unmap;
  if (!by_unmap && !disk_.can_unmap_same_16 && !disk_.can_unmap_same_10) {
    request.at = request.high;  // it turned out that it cannot: a hint
    return false;
  }
  std::uint64_t limit = most_trimmed / block;
  if (by_unmap && disk_.max_unmap_blocks > 0)
    limit = std::min<std::uint64_t>(limit, disk_.max_unmap_blocks);
  if (!by_unmap && disk_.max_write_same > 0) limit = std::min(limit, disk_.max_write_same);
  if (!by_unmap && !disk_.can_unmap_same_16) limit = std::min<std::uint64_t>(limit, 0xffff);
  const std::uint64_t bytes = std::min(request.high - request.at, limit * block);
  const disk::BlockRange range{request.at / block, bytes / block};
  IscsiCommand& command = new_command(request, Kind::unmap, request.at, bytes);
  command.direction = Direction::out;
  if (by_unmap) {
    const auto list = disk::unmap_list({&range, 1});
    std::memcpy(command.parameters.data(), list.data(), list.size());
    command.data = command.parameters.data();
    command.length = static_cast<std::uint32_t>(list.size());
    command.cdb = disk::unmap(static_cast<std::uint16_t>(list.size()));
  } else {
    command.data = zero_bytes;
    command.length = disk_.block_size;
    command.cdb = disk_.can_unmap_same_16
                      ? disk::write_same_16(range.lba, blocks(bytes), true)
                      : disk::write_same_10(static_cast<std::uint32_t>(range.lba),
                                            static_cast<std::uint16_t>(range.blocks), true);
  }
  request.at += bytes;
  begin(command);
  return true;
}

/// Zeroes by WRITE SAME. With UNMAP where holes may stay and read as zeroes: unlike UNMAP itself,
/// it writes what it does not unmap (SBC-3 5.49). False: it has to be done by writing.
bool IscsiCore::issue_write_same(IscsiRequest& request) {
  const std::uint64_t block = disk_.block_size;
  const std::uint64_t lba = request.at / block;
  if (!can_write_same_ || request.unaligned) return false;
  std::uint64_t limit = most_zeroed / block;
  if (disk_.max_write_same > 0) limit = std::min(limit, disk_.max_write_same);
  const std::uint64_t bytes = std::min(request.high - request.at, limit * block);
  const bool unmap =
      request.io->has(io_flag::may_trim) && disk_.can_unmap_same_16 && disk_.unmapped_is_zero;
  IscsiCommand& command = new_command(request, Kind::write_same, request.at, bytes);
  command.direction = Direction::out;
  command.data = zero_bytes;
  command.length = disk_.block_size;
  command.cdb = disk::write_same_16(lba, blocks(bytes), unmap);
  request.at += bytes;
  begin(command);
  return true;
}

void IscsiCore::issue_lba_status(IscsiRequest& request) {
  if (request.spare.size() < status_length) request.spare.resize(status_length);
  IscsiCommand& command =
      new_command(request, Kind::lba_status, request.at, request.high - request.at);
  command.direction = Direction::in;
  command.data = request.spare.data();
  command.length = status_length;
  command.cdb = disk::get_lba_status(request.at / disk_.block_size, status_length);
  request.at = request.high;  // what the answer leaves is asked for again
  begin(command);
}

}  // namespace blockloom
