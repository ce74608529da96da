#include <algorithm>
#include <array>
#include <atomic>
#include <new>

#include "server/device/table.hpp"
#include "server/leg/nowait.hpp"

namespace blockloom {
namespace {

Bytes room_in(const Table::Segment& segment, Bytes offset) noexcept {
  const Bytes inside = offset - segment.start;
  const Bytes left = segment.length - inside;
  if (segment.chunk.value == 0) return left;
  return std::min(left, segment.chunk - inside % segment.chunk);
}

// What changes or flushes legs goes on to the other pieces when one fails, as device-mapper's bios
// do: which bytes of a failed write are on the legs does not depend on the order of the pieces.
bool stops_at_error(Op op) noexcept {
  return op == Op::read || op == Op::cache || op == Op::extents;
}

void map_directly(const Target::Direct& direct, Io& io) noexcept {
  io.leg = direct.leg;
  io.offset += direct.offset;
}

/// What is not inline ends on other threads, or ends an Io for its own reasons: it does not block.
std::uint8_t passed_on(std::uint8_t flags, bool inline_only) noexcept {
  return inline_only ? flags : static_cast<std::uint8_t>(flags & ~io_flag::nowait);
}

Submit submit_mapped(Target& target, Io& io) noexcept {
  switch (target.map(io)) {
    case Map::remapped:
      return io.leg->submit(io);
    case Map::done:
      return Submit::done;
    case Map::pending:
      break;
  }
  return Submit::pending;
}

}  // namespace

/// Cuts a request into pieces, in order: at segments and chunks, or into copies of a trim, zero
/// or flush.
class Table::Cursor {
 public:
  Cursor(const Table& table, const Request& request) noexcept
      : table_(table),
        request_(request),
        covered_before_(request.extents != nullptr ? request.extents->covered() : Bytes(0)),
        position_(request.offset),
        end_(request.offset + request.length) {
    if (request.op != Op::flush) index_ = table.index_of(request.offset);
  }

  /// Fills the next piece. False when there is none.
  bool next(Io& io) noexcept {
    io = Io{};
    io.op = request_.op;
    io.flags = passed_on(request_.flags, table_.inline_only_);
    io.shard = request_.shard;
    io.start_ns = request_.start_ns;
    switch (request_.op) {
      case Op::flush:
        return next_flush(io);
      case Op::trim:
      case Op::zero:
        if (table_.segments_[std::min(index_, table_.segments_.size() - 1)].chunks_all)
          return next_range(io);
        return next_copy(io);
      case Op::extents:
        if (extents_suffice()) return false;
        [[fallthrough]];
      default:
        return next_range(io);
    }
  }

  /// Submits the piece that next() filled last.
  Submit submit(Io& io) const noexcept {
    return target_ != nullptr ? submit_mapped(*target_, io) : io.leg->submit(io);
  }

 private:
  // Extents are asked piece after piece, so that the answer is in order; a bound keeps one
  // request over a fine stripe set from running for long.
  static constexpr unsigned max_extent_pieces = 4096;

  bool extents_suffice() noexcept {
    if (pieces_++ == 0) return false;
    const Extents& found = *request_.extents;
    if (found.covered() - covered_before_ < position_ - request_.offset || found.full())
      return true;
    if ((request_.flags & io_flag::one_extent) && found.list().size() > 1) return true;
    return pieces_ > max_extent_pieces;
  }

  bool next_range(Io& io) noexcept {
    if (position_ >= end_) return false;
    const Segment& segment = table_.segments_[index_];
    io.length = std::min(end_ - position_, room_in(segment, position_));
    io.offset = position_ - segment.start;
    if (request_.data != nullptr) io.data = request_.data + (position_ - request_.offset).value;
    io.extents = request_.extents;
    set_target(segment, io);
    position_ += io.length;
    if (position_ >= segment.start + segment.length) ++index_;
    return true;
  }

  bool next_copy(Io& io) noexcept {
    if (position_ >= end_) return false;
    const Segment& segment = table_.segments_[index_];
    const Bytes stop = std::min(end_, segment.start + segment.length);
    io.offset = position_ - segment.start;
    io.length = stop - position_;
    io.copy = copy_++;
    set_target(segment, io);
    if (copy_ >= segment.copies) {
      copy_ = 0;
      position_ = stop;
      ++index_;
    }
    return true;
  }

  void set_target(const Segment& segment, Io& io) noexcept {
    target_ = segment.direct.leg == nullptr ? segment.target.get() : nullptr;
    if (target_ == nullptr) map_directly(segment.direct, io);
  }

  bool next_flush(Io& io) noexcept {
    if (index_ >= table_.flush_steps_.size()) return false;
    const FlushStep& step = table_.flush_steps_[index_++];
    io.leg = step.leg;
    io.copy = step.copy;
    target_ = step.target;
    return true;
  }

  const Table& table_;
  const Request& request_;
  const Bytes covered_before_;  // an upper device's pieces append to one list
  Bytes position_;
  Bytes end_;
  std::size_t index_ = 0;  // of a segment, or of a flush step
  std::uint32_t copy_ = 0;
  unsigned pieces_ = 0;
  Target* target_ = nullptr;
};

/// A request in pieces of which some may end later: dm's dm_io. Pieces go out in batches; the
/// count starts at one, for the submitter, and whoever brings it to zero goes on with the next
/// batch or ends the request.
class Table::Split {
 public:
  Split(const Table& table, Request& request) noexcept
      : request_(request),
        cursor_(table, request),
        // Extents are appended to one list, so their pieces go one by one.
        window_(request.op == Op::extents ? 1 : batch) {}

  Request& request() noexcept { return request_; }
  Errc status() const noexcept { return status_.load(std::memory_order_relaxed); }

  /// Done: every piece has ended. Pending: the last one to end goes on, and `this` may be gone.
  Submit run() noexcept {
    for (;;) {
      left_.store(1, std::memory_order_relaxed);
      submit_batch();
      if (left_.fetch_sub(1, std::memory_order_acq_rel) != 1) return Submit::pending;
      if (finished_ || stop_early()) return Submit::done;
    }
  }

 private:
  static constexpr std::size_t batch = 64;

  void submit_batch() noexcept {
    std::size_t used = 0;
    while (used < window_ && !stop_early()) {
      Io& io = pieces_[used];
      if (!cursor_.next(io)) {
        finished_ = true;
        return;
      }
      io.complete = piece_ended;
      io.owner = this;
      left_.fetch_add(1, std::memory_order_relaxed);
      if (cursor_.submit(io) == Submit::pending) {
        ++used;
      } else {
        note(io.status);
        left_.fetch_sub(1, std::memory_order_relaxed);
      }
    }
  }

  bool stop_early() const noexcept { return status() != Errc::ok && stops_at_error(request_.op); }

  void note(Errc status) noexcept {
    Errc expected = Errc::ok;
    if (status != Errc::ok)
      status_.compare_exchange_strong(expected, status, std::memory_order_relaxed);
  }

  static void piece_ended(Io& io) noexcept {
    auto* split = static_cast<Split*>(io.owner);
    split->note(io.status);
    if (split->left_.fetch_sub(1, std::memory_order_acq_rel) != 1) return;
    if (!split->finished_ && !split->stop_early() && split->run() == Submit::pending) return;
    Request& request = split->request_;
    request.status = split->status();
    delete split;
    request.table_ended(request);
  }

  Request& request_;
  Cursor cursor_;
  const std::size_t window_;
  bool finished_ = false;  // handed from thread to thread by left_
  std::atomic<std::uint32_t> left_{0};
  std::atomic<Errc> status_{Errc::ok};
  std::array<Io, batch> pieces_;
};

Submit Table::submit(Request& request) noexcept {
  if (request.op == Op::flush) return submit_split(request);
  const Segment& segment = segments_[index_of(request.offset)];
  const bool copied = (request.op == Op::trim || request.op == Op::zero) && !segment.chunks_all;
  const Bytes room =
      copied ? segment.length - (request.offset - segment.start) : room_in(segment, request.offset);
  if (request.length > room || (copied && segment.copies > 1)) return submit_split(request);

  Io& io = request.io;
  io.op = request.op;
  io.flags = passed_on(request.flags, inline_only_);
  io.shard = request.shard;
  io.start_ns = request.start_ns;
  io.status = Errc::ok;
  io.copy = 0;
  io.offset = request.offset - segment.start;
  io.length = request.length;
  io.data = request.data;
  io.extents = request.extents;
  io.complete = single_piece_ended;
  io.owner = &request;
  Submit result;
  if (segment.direct.leg != nullptr) {
    map_directly(segment.direct, io);
    result = io.leg->submit(io);
  } else {
    result = submit_mapped(*segment.target, io);
  }
  if (result == Submit::pending) return Submit::pending;
  request.status = io.status;
  return Submit::done;
}

void Table::single_piece_ended(Io& io) noexcept {
  Request& request = *static_cast<Request*>(io.owner);
  request.status = io.status;
  request.table_ended(request);
}

Submit Table::submit_inline(Request& request) noexcept {
  Cursor cursor(*this, request);
  request.status = Errc::ok;
  while (cursor.next(request.io)) {
    cursor.submit(request.io);
    if (request.io.status == Errc::ok) continue;
    if (request.status == Errc::ok) request.status = request.io.status;
    if (stops_at_error(request.op)) break;
  }
  return Submit::done;
}

Submit Table::submit_split(Request& request) noexcept {
  if (inline_only_) return submit_inline(request);
  auto* split = new (std::nothrow) Split(*this, request);
  if (split == nullptr) {
    request.status = Errc::no_memory;
    return Submit::done;
  }
  if (split->run() == Submit::pending) return Submit::pending;
  request.status = split->status();
  delete split;
  return Submit::done;
}

}  // namespace blockloom
