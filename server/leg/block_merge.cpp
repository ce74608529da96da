#include "server/leg/block_merge.hpp"

#include <algorithm>
#include <cstring>
#include <new>
#include <utility>
#include <vector>

namespace blockloom {

/// One Io in parts: the piece of its first block, the whole blocks, the piece of its last. A part
/// of a block takes two steps, reading it and, if something is to be changed, writing it.
struct BlockMerge::Merge {
  BlockMerge* merges = nullptr;
  Io* outer = nullptr;
  void (*end)(Io&, Errc) noexcept = nullptr;
  std::uint64_t first = 0, last = 0;  // the blocks that it touches, in bytes, last exclusive
  bool running = false;

  std::uint64_t position = 0;  // in bytes from the start of the device
  Errc status = Errc::ok;
  Io step;
  std::vector<std::byte> block;

  std::uint64_t stop() const noexcept { return (outer->offset + outer->length).value; }
};

BlockMerge::BlockMerge(std::uint32_t block, std::function<Submit(Io&)> submit)
    : block_(block), submit_(std::move(submit)) {}

BlockMerge::~BlockMerge() = default;

bool BlockMerge::passes(const Io& io) const noexcept {
  if (io.op == Op::flush) return true;
  const bool whole = io.offset.value % block_ == 0 && io.length.value % block_ == 0;
  return whole && !io.modifies();
}

Submit BlockMerge::submit(Io& io, void (*end)(Io&, Errc) noexcept) noexcept {
  const std::uint64_t stop = (io.offset + io.length).value;
  const std::uint64_t first = io.offset.value / block_ * block_;
  const std::uint64_t last = (stop + block_ - 1) / block_ * block_;
  const bool whole = first == io.offset.value && last == stop;
  switch (io.op) {
    case Op::cache:
      return io.finish_inline(Errc::ok);  // a hint
    case Op::extents:
      // What holds of a part of a block cannot be asked.
      io.extents->add({io.length, false, false});
      return io.finish_inline(Errc::ok);
    case Op::zero:
      if (!whole && io.has(io_flag::fast)) return io.finish_inline(Errc::not_supported);
      break;
    default:
      break;
  }
  Merge* merge = nullptr;
  try {
    auto made = std::make_unique<Merge>();
    if (!whole) made->block.resize(block_);
    const std::lock_guard lock(mutex_);
    if (merges_.size() >= most) return io.finish_inline(Errc::limit);
    merge = made.get();
    merges_.push_back(std::move(made));
    merge->merges = this;
    merge->outer = &io;
    merge->end = end;
    merge->first = first;
    merge->last = last;
    merge->position = io.offset.value;
    if (blocked_locked(*merge)) return Submit::pending;
    merge->running = true;
  } catch (const std::bad_alloc&) {
    return io.finish_inline(Errc::no_memory);
  }
  go_on(*merge);
  return Submit::pending;
}

/// An earlier one modifies a block that this one touches, or the other way round.
bool BlockMerge::blocked_locked(const Merge& merge) const noexcept {
  for (const auto& earlier : merges_) {
    if (earlier.get() == &merge) return false;
    if (earlier->first < merge.last && merge.first < earlier->last &&
        (earlier->outer->modifies() || merge.outer->modifies()))
      return true;
  }
  return false;
}

/// Takes steps until one is pending or all are done.
void BlockMerge::go_on(Merge& merge) noexcept {
  while (next_step(merge)) {
    merge.step.complete = step_ended;
    merge.step.owner = &merge;
    if (submit_(merge.step) == Submit::pending) return;
    if (merge.step.status != Errc::ok) merge.status = merge.step.status;
  }
  finish(merge);
}

void BlockMerge::step_ended(Io& io) noexcept {
  auto& merge = *static_cast<Merge*>(io.owner);
  if (io.status != Errc::ok) merge.status = io.status;
  merge.merges->go_on(merge);
}

/// Prepares the next step. False: there is none.
bool BlockMerge::next_step(Merge& merge) noexcept {
  if (merge.status != Errc::ok) return false;
  Io& outer = *merge.outer;
  const std::uint64_t stop = merge.stop();
  const std::uint64_t start = merge.position / block_ * block_;
  const std::uint64_t within = merge.position - start;
  Io step;
  step.op = outer.op;
  step.flags = outer.flags;
  step.shard = outer.shard;

  if (!merge.block.empty() && merge.step.length.value != 0 &&
      merge.step.data == merge.block.data()) {  // a part of a block was read, or written back
    const std::uint64_t length = std::min<std::uint64_t>(block_ - within, stop - merge.position);
    if (merge.step.op == Op::read && outer.op != Op::read) {
      if (outer.op == Op::write)
        std::memcpy(merge.block.data() + within, outer.data + (merge.position - outer.offset.value),
                    length);
      else
        std::memset(merge.block.data() + within, 0, length);
      step.op = Op::write;
      step.flags = outer.flags & io_flag::fua;
      step.offset = Bytes(start);
      step.length = Bytes(block_);
      step.data = merge.block.data();
      merge.step = step;
      return true;
    }
    if (merge.step.op == Op::read)
      std::memcpy(outer.data + (merge.position - outer.offset.value), merge.block.data() + within,
                  length);
    merge.position += length;
    merge.step = Io{};
    return next_step(merge);
  }
  if (merge.step.length.value != 0) {  // whole blocks are done
    merge.position += merge.step.length.value;
    merge.step = Io{};
  }
  if (merge.position >= stop) return false;

  const std::uint64_t whole = (stop - merge.position) / block_ * block_;
  if (merge.position % block_ == 0 && whole > 0) {
    step.offset = Bytes(merge.position);
    step.length = Bytes(whole);
    if (outer.data != nullptr) step.data = outer.data + (merge.position - outer.offset.value);
  } else if (outer.op == Op::trim) {  // a part of a block is kept: trim is a hint
    const std::uint64_t next = merge.position / block_ * block_ + block_;
    merge.position = std::min(stop, next);
    return next_step(merge);
  } else {
    step.op = Op::read;
    step.flags = 0;
    step.offset = Bytes(merge.position / block_ * block_);
    step.length = Bytes(block_);
    step.data = merge.block.data();
  }
  merge.step = step;
  return true;
}

/// Ends the outer Io, and starts those that waited for its blocks.
void BlockMerge::finish(Merge& merge) noexcept {
  Io& outer = *merge.outer;
  const Errc status = merge.status;
  const auto end = merge.end;
  std::unique_ptr<Merge> gone;
  {
    const std::lock_guard lock(mutex_);
    const auto found = std::find_if(merges_.begin(), merges_.end(),
                                    [&](const auto& m) { return m.get() == &merge; });
    gone = std::move(*found);
    merges_.erase(found);
  }
  for (;;) {
    Merge* next = nullptr;
    {
      const std::lock_guard lock(mutex_);
      for (const auto& waiting : merges_)
        if (!waiting->running && !blocked_locked(*waiting)) {
          next = waiting.get();
          next->running = true;
          break;
        }
    }
    if (next == nullptr) break;
    go_on(*next);
  }
  end(outer, status);  // last: it may free this
}

bool BlockMerge::has(const Io& io) const noexcept {
  const std::lock_guard lock(mutex_);
  return std::any_of(merges_.begin(), merges_.end(),
                     [&](const auto& merge) { return merge->outer == &io; });
}

}  // namespace blockloom
