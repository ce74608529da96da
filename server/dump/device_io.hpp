#pragma once

#include <condition_variable>
#include <cstdint>
#include <memory>
#include <mutex>
#include <span>

#include "proto/dump/bytes.hpp"
#include "server/base/clock.hpp"
#include "server/base/error.hpp"
#include "server/io/io_client.hpp"
#include "server/leg/leg.hpp"

namespace blockloom::dump {

/// Something ended, or a buffer came back: whoever waits looks again. Any thread.
class Signal {
 public:
  std::uint64_t seen() const {
    const std::lock_guard lock(mutex_);
    return count_;
  }
  void raise() {
    const std::lock_guard lock(mutex_);
    ++count_;
    changed_.notify_all();
  }
  /// Until it was raised after seen() gave `seen`, or the deadline has passed.
  void wait(std::uint64_t seen, TimePoint deadline) {
    std::unique_lock lock(mutex_);
    changed_.wait_until(lock, deadline, [&] { return count_ != seen; });
  }

 private:
  mutable std::mutex mutex_;
  std::condition_variable changed_;
  std::uint64_t count_ = 0;
};

/// A dump store's way to its leg: through an IoClient of its own, every request with a deadline, so
/// that a leg that hangs holds up nobody for longer than `patience`. Offsets and lengths are
/// multiples of 512. Any thread.
class DeviceIo {
 public:
  static constexpr std::uint64_t piece = 256 << 10;  ///< the most that one request has

  static Result<std::unique_ptr<DeviceIo>> create(std::shared_ptr<Leg> leg,
                                                  Duration patience = std::chrono::seconds(15));

  /// After the process has forked, before the first request.
  Result<void> start() { return client_->start(); }

  std::string name() const { return leg_->uri(); }
  std::uint64_t size() const noexcept { return leg_->size().value; }
  TimePoint deadline() const noexcept { return Clock::now() + patience_; }

  Result<void> read(std::uint64_t offset, std::span<std::byte> into);
  Result<void> write(std::uint64_t offset, ByteView bytes);
  Result<void> zero(std::uint64_t offset, std::uint64_t length);
  Result<void> flush();

  /// Whether a write is late and may still land: what it goes to is not for others yet.
  bool late() const noexcept { return client_->late(0) != 0; }

  // For writes that are not waited for.
  IoClient& client() noexcept { return *client_; }
  const std::shared_ptr<Signal>& signal() const noexcept { return signal_; }

 private:
  DeviceIo(std::shared_ptr<Leg> leg, Duration patience)
      : leg_(std::move(leg)), patience_(patience) {}
  Result<void> run(Op op, std::uint64_t offset, std::uint64_t length, IoBufferRef buffer);
  Result<IoBufferRef> buffer(std::uint64_t length);

  const std::shared_ptr<Leg> leg_;
  const Duration patience_;
  const std::shared_ptr<Signal> signal_ = std::make_shared<Signal>();
  std::unique_ptr<IoClient> client_;
};

}  // namespace blockloom::dump
