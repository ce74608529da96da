#include "server/leg/leg.hpp"

#include <fmt/format.h>

#include "server/leg/nowait.hpp"

namespace blockloom {

bool Extents::add(Extent extent) {
  if (extent.length.value == 0) return true;
  if (!list_.empty() && list_.back().hole == extent.hole && list_.back().zero == extent.zero) {
    list_.back().length += extent.length;
  } else {
    if (full()) return false;
    list_.push_back(extent);
  }
  covered_ += extent.length;
  return true;
}

IoTotals IoAccount::totals() const noexcept {
  IoTotals t;
  for (const Shard& s : shards_) {
    t.reads += s.reads.load(std::memory_order_relaxed);
    t.writes += s.writes.load(std::memory_order_relaxed);
    t.others += s.others.load(std::memory_order_relaxed);
    t.read_bytes += s.read_bytes.load(std::memory_order_relaxed);
    t.write_bytes += s.write_bytes.load(std::memory_order_relaxed);
    t.samples += s.samples.load(std::memory_order_relaxed);
    t.sampled_ns += s.sampled_ns.load(std::memory_order_relaxed);
  }
  // Read after the ends: what began since then may be counted, but nothing twice.
  std::uint64_t begun = 0;
  for (const Shard& s : shards_)
    begun += s.begun.load(std::memory_order_relaxed);
  const std::uint64_t ended = t.reads + t.writes + t.others;
  t.in_flight = begun > ended ? begun - ended : 0;
  t.errors = errors_.load(std::memory_order_relaxed);
  return t;
}

Submit Leg::submit(Io& io) noexcept {
  io.leg = this;
  // The device has chosen which requests are timed; here another clock starts.
  if (io.start_ns != 0) [[unlikely]]
    io.start_ns = now_ns();
  if (io.has(io_flag::nowait)) {
    // Inline, so nobody misses it while it is under way; and refused it comes again.
    const Submit result = do_submit(io);
    if (result == Submit::done && would_wait(io.status, io.flags)) return result;
    account_.begin(io.shard);
    if (result == Submit::done) account_.end(io.shard, io.op, io.length, io.status, io.start_ns);
    return result;
  }
  account_.begin(io.shard);
  const Submit result = do_submit(io);
  if (result == Submit::done) account_.end(io.shard, io.op, io.length, io.status, io.start_ns);
  return result;
}

void Leg::finish(Io& io, Errc status) noexcept {
  io.status = status;
  io.leg->account_.end(io.shard, io.op, io.length, status, io.start_ns);
  io.complete(io);
}

Result<std::string> Leg::message(std::string_view) {
  return Error{Errc::not_supported, fmt::format("leg '{}' takes no messages", uri_)};
}

}  // namespace blockloom
