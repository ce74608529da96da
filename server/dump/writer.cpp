#include "server/dump/writer.hpp"

#include <algorithm>
#include <cstring>

#include <fmt/format.h>

#include "server/base/log.hpp"

namespace blockloom::dump {
namespace {

constexpr std::size_t edges_max = 64;

}  // namespace

DumpWriter::~DumpWriter() {
  drop();
}

void DumpWriter::add(std::unique_ptr<DumpTarget> target) {
  slots_.emplace_back().target = std::move(target);
}

void DumpWriter::fail(Slot& slot, Error error) {
  slot.status = error.code == Errc::ok ? Errc::io : error.code;
  slot.failure = std::move(error.message);
  log_warning(fmt::format("dump target {}: {}", slot.target->name(), slot.failure));
}

Result<void> DumpWriter::left() const {
  const Slot* failed = nullptr;
  for (const Slot& slot : slots_) {
    if (slot.alive()) return {};
    failed = &slot;
  }
  if (failed == nullptr) return Error{Errc::invalid, "a dump without a target"};
  return Error{failed->status, failed->failure};
}

Result<void> DumpWriter::each(Result<void> (*step)(Slot&, std::uint64_t, TimePoint),
                              std::uint64_t value) {
  // A deadline for all: they work side by side, and a late one has had its time.
  const TimePoint deadline = Clock::now() + write_timeout_;
  for (Slot& slot : slots_)
    if (slot.alive())
      if (auto done = step(slot, value, deadline); !done) fail(slot, done.error());
  return left();
}

Result<void> DumpWriter::configure(const DumpPlan& plan) {
  for (Slot& slot : slots_) {
    slot.configured = true;
    auto done = slot.target->configure(plan);
    if (done) {
      slot.limits = slot.target->query();
      slot.done.resize(slot.limits.queue);
      done = slot.target->ready();
    }
    if (!done) fail(slot, done.error());
  }
  return left();
}

Result<void> DumpWriter::reserve(std::uint64_t end) {
  return each(
      [](Slot& slot, std::uint64_t value, TimePoint) { return slot.target->reserve(value); }, end);
}

Result<void> DumpWriter::write(std::span<const DumpWrite> batch) {
  const TimePoint deadline = Clock::now() + write_timeout_;
  // First every target gets as much as it takes, then each is waited for: they are written side
  // by side.
  std::vector<std::size_t> started(slots_.size(), 0);
  for (std::size_t i = 0; i < slots_.size(); ++i) {
    Slot& slot = slots_[i];
    if (!slot.alive()) continue;
    slot.pieces.clear();
    auto done = cut(slot, batch);
    if (done) {
      started[i] = std::min<std::size_t>(slot.pieces.size(), slot.limits.queue);
      done = slot.target->start(std::span(slot.pieces).first(started[i]));
    }
    if (!done) fail(slot, done.error());
  }
  for (std::size_t i = 0; i < slots_.size(); ++i) {
    Slot& slot = slots_[i];
    if (!slot.alive()) continue;
    std::size_t next = started[i], in_flight = started[i];
    Result<void> done;
    while (done && in_flight > 0) {
      done = wait_for(slot, in_flight, deadline);
      const std::size_t more =
          std::min<std::size_t>(slot.pieces.size() - next, slot.limits.queue - in_flight);
      if (!done || more == 0) continue;
      done = slot.target->start(std::span(slot.pieces).subspan(next, more));
      next += more;
      in_flight += more;
    }
    if (!done) {
      if (in_flight > 0) slot.target->abandon();
      fail(slot, done.error());
    }
  }
  return left();
}

Result<void> DumpWriter::wait_for(Slot& slot, std::size_t& in_flight, TimePoint deadline) {
  const std::size_t n = slot.target->poll(slot.done, deadline);
  if (n == 0)
    return Error{Errc::timed_out, fmt::format("{}: {} writes are late: it is left behind",
                                              slot.target->name(), in_flight)};
  in_flight -= std::min(n, in_flight);
  for (std::size_t i = 0; i < n; ++i)
    if (slot.done[i].status != Errc::ok)
      return Error{slot.done[i].status, fmt::format("{}: a write failed: {}", slot.target->name(),
                                                    to_string(slot.done[i].status))};
  return {};
}

Result<void> DumpWriter::cut(Slot& slot, std::span<const DumpWrite> batch) {
  if (slot.limits.alignment <= 1) {
    for (const DumpWrite& write : batch)
      add_pieces(slot, write.offset, write.bytes);
    return {};
  }
  // Edges that are whole by now, or that nothing has touched for long, need no copy any more:
  // what they hold is on the target.
  if (slot.edges.size() > edges_max) slot.edges.clear();
  for (auto& [offset, block] : slot.edges)
    block.dirty = false;
  for (const DumpWrite& write : batch)
    if (auto done = cut_unaligned(slot, write); !done) return done;
  for (auto& [offset, block] : slot.edges)
    if (block.dirty) add_pieces(slot, offset, block.bytes);
  return {};
}

void DumpWriter::add_pieces(Slot& slot, std::uint64_t offset, ByteView bytes) {
  while (!bytes.empty()) {
    const std::size_t n = std::min<std::uint64_t>(bytes.size(), slot.limits.largest);
    slot.pieces.push_back({offset, bytes.first(n), static_cast<std::uint32_t>(slot.pieces.size())});
    offset += n;
    bytes = bytes.subspan(n);
  }
}

Result<void> DumpWriter::cut_unaligned(Slot& slot, const DumpWrite& write) {
  const std::uint64_t unit = slot.limits.alignment;
  std::uint64_t offset = write.offset;
  ByteView bytes = write.bytes;
  while (!bytes.empty()) {
    const std::uint64_t within = offset % unit;
    if (within == 0 && bytes.size() >= unit && slot.edges.count(offset) == 0) {
      // The whole blocks in a row up to the next one that is kept.
      const auto kept = slot.edges.lower_bound(offset);
      std::uint64_t n = bytes.size() - bytes.size() % unit;
      if (kept != slot.edges.end()) n = std::min(n, kept->first - offset);
      add_pieces(slot, offset, bytes.first(n));
      offset += n;
      bytes = bytes.subspan(n);
      continue;
    }
    auto block = edge(slot, offset - within);
    if (!block) return block.error();
    const std::size_t n = std::min<std::uint64_t>(unit - within, bytes.size());
    std::memcpy((*block)->bytes.data() + within, bytes.data(), n);
    (*block)->dirty = true;
    offset += n;
    bytes = bytes.subspan(n);
  }
  return {};
}

Result<DumpWriter::Block*> DumpWriter::edge(Slot& slot, std::uint64_t offset) {
  Block& block = slot.edges[offset];
  if (!block.bytes.empty()) return &block;
  block.bytes.resize(slot.limits.alignment);
  auto got = slot.target->read(offset, block.bytes);
  if (!got) {
    slot.edges.erase(offset);
    return got.error();
  }
  return &block;
}

Result<void> DumpWriter::sync() {
  return each(
      [](Slot& slot, std::uint64_t, TimePoint deadline) { return slot.target->sync(deadline); }, 0);
}

Result<void> DumpWriter::finish(std::uint64_t length) {
  auto done = each([](Slot& slot, std::uint64_t value,
                      TimePoint deadline) { return slot.target->finish(value, deadline); },
                   length);
  drop();
  return done;
}

void DumpWriter::end(Slot& slot) noexcept {
  if (!slot.configured) return;
  slot.target->release();
  slot.target->unconfigure();
  slot.configured = false;
}

void DumpWriter::drop() noexcept {
  for (Slot& slot : slots_)
    end(slot);
}

Result<std::size_t> DumpWriter::read(std::uint64_t offset, std::span<std::byte> into) {
  for (Slot& slot : slots_)
    if (slot.alive()) return slot.target->read(offset, into);
  return left().error();
}

std::vector<DumpWriter::Report> DumpWriter::reports() const {
  std::vector<Report> all;
  for (const Slot& slot : slots_)
    all.push_back({slot.target->name(), slot.status, slot.failure});
  return all;
}

bool DumpWriter::degraded() const noexcept {
  return std::any_of(slots_.begin(), slots_.end(), [](const Slot& s) { return !s.alive(); });
}

}  // namespace blockloom::dump
