#include "server/dump/device_io.hpp"

#include <algorithm>
#include <cstring>
#include <string_view>

#include <fmt/format.h>

namespace blockloom::dump {
namespace {

/// Of all buffers that are out: what 64 dumps at once can have under way.
constexpr Bytes buffers_max(64 << 20);
/// A leg that has no quick way writes the zeros, and this is what it gets in one request.
constexpr std::uint64_t zero_piece = 16 << 20;

std::string_view word(Op op) {
  return op == Op::read ? "read" : op == Op::flush ? "flush" : op == Op::zero ? "zero" : "write";
}

}  // namespace

Result<std::unique_ptr<DeviceIo>> DeviceIo::create(std::shared_ptr<Leg> leg, Duration patience) {
  std::unique_ptr<DeviceIo> made(new DeviceIo(std::move(leg), patience));
  IoClient::Options options;
  options.name = "bl-dump";
  options.buffers.largest = Bytes(piece);
  options.buffers.reserve = 16;
  options.buffers.limit = buffers_max;
  auto client = IoClient::create(options);
  if (!client) return client.error();
  made->client_ = std::move(*client);
  made->client_->buffers().on_room([signal = made->signal_] { signal->raise(); });
  IoClient::LegOptions lane;
  lane.lane = true;
  lane.late_limit = Bytes(~std::uint64_t{0});
  made->client_->set_leg(0, made->leg_, lane);
  return made;
}

Result<IoBufferRef> DeviceIo::buffer(std::uint64_t length) {
  const TimePoint last = deadline();
  for (;;) {
    const std::uint64_t seen = signal_->seen();
    if (auto got = client_->buffers().acquire(Bytes(length))) return got;
    if (Clock::now() >= last)
      return Error{Errc::no_memory, fmt::format("{}: all its buffers wait for writes", name())};
    signal_->wait(seen, last);
  }
}

Result<void> DeviceIo::run(Op op, std::uint64_t offset, std::uint64_t length, IoBufferRef buffer) {
  IoRegion region;
  region.offset = Bytes(offset);
  region.length = Bytes(length);
  region.deadline = deadline();
  IoRequest request;
  request.op = op;
  if (op == Op::zero) request.flags = io_flag::may_trim;
  request.cancel_on_timeout = true;
  request.regions = {&region, 1};
  request.buffer = std::move(buffer);
  const IoResults results = client_->run(std::move(request));
  switch (results.states[0]) {
    case RegionState::ok:
      return {};
    case RegionState::timeout:
      return Error{
          Errc::timed_out,
          fmt::format("{}: {} at {}: no answer after {} s", name(), word(op), offset,
                      std::chrono::duration_cast<std::chrono::seconds>(patience_).count())};
    default:
      break;
  }
  const Errc status = results.status[0] == Errc::ok ? Errc::io : results.status[0];
  return Error{status,
               fmt::format("{}: {} at {}: {}", name(), word(op), offset, to_string(status))};
}

Result<void> DeviceIo::read(std::uint64_t offset, std::span<std::byte> into) {
  while (!into.empty()) {
    const std::size_t n = std::min<std::uint64_t>(into.size(), piece);
    auto got = buffer(n);
    if (!got) return got.error();
    if (auto done = run(Op::read, offset, n, *got); !done) return done;
    std::memcpy(into.data(), got->data(), n);
    offset += n;
    into = into.subspan(n);
  }
  return {};
}

Result<void> DeviceIo::write(std::uint64_t offset, ByteView bytes) {
  while (!bytes.empty()) {
    const std::size_t n = std::min<std::uint64_t>(bytes.size(), piece);
    auto got = buffer(n);
    if (!got) return got.error();
    std::memcpy(got->data(), bytes.data(), n);
    if (auto done = run(Op::write, offset, n, std::move(*got)); !done) return done;
    offset += n;
    bytes = bytes.subspan(n);
  }
  return {};
}

Result<void> DeviceIo::zero(std::uint64_t offset, std::uint64_t length) {
  while (length > 0) {
    const std::uint64_t n = std::min(length, zero_piece);
    if (auto done = run(Op::zero, offset, n, {}); !done) return done;
    offset += n;
    length -= n;
  }
  return {};
}

Result<void> DeviceIo::flush() {
  return run(Op::flush, 0, 0, {});
}

}  // namespace blockloom::dump
