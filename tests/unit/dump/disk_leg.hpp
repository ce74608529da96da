#pragma once

#include <atomic>
#include <condition_variable>
#include <cstring>
#include <mutex>
#include <string>
#include <vector>

#include "server/leg/leg.hpp"

namespace blockloom::test {

/// A disk in memory that remembers every write, so that a test can stop the machine after any of
/// them; and it can hang and fail.
class DiskLeg final : public Leg {
 public:
  struct Change {
    std::uint64_t offset = 0;
    std::string bytes;
    bool flush = false;
  };

  explicit DiskLeg(std::size_t size) : Leg("disk"), bytes_(size, '\0') {}
  explicit DiskLeg(std::string bytes) : Leg("disk"), bytes_(std::move(bytes)) {}

  Bytes size() const noexcept override { return Bytes(bytes_.size()); }

  std::string bytes() const {
    const std::lock_guard lock(mutex_);
    return bytes_;
  }
  std::vector<Change> changes() const {
    const std::lock_guard lock(mutex_);
    return changes_;
  }
  std::size_t count() const {
    const std::lock_guard lock(mutex_);
    return changes_.size();
  }
  void hang(bool on) {
    const std::lock_guard lock(mutex_);
    hangs_ = on;
    go_on_.notify_all();
  }
  std::atomic<Errc> fail{Errc::ok};  ///< of every write

 private:
  Submit do_submit(Io& io) noexcept override {
    std::unique_lock lock(mutex_);
    go_on_.wait(lock, [this] { return !hangs_; });
    const std::size_t at = io.offset.value, n = io.length.value;
    switch (io.op) {
      case Op::read:
        std::memcpy(io.data, bytes_.data() + at, n);
        return io.finish_inline(Errc::ok);
      case Op::write:
      case Op::zero: {
        if (fail != Errc::ok) return io.finish_inline(fail);
        std::string fresh = io.op == Op::zero
                                ? std::string(n, '\0')
                                : std::string(reinterpret_cast<const char*>(io.data), n);
        bytes_.replace(at, n, fresh);
        changes_.push_back({at, std::move(fresh), false});
        return io.finish_inline(Errc::ok);
      }
      case Op::flush:
        changes_.push_back({0, {}, true});
        return io.finish_inline(fail);
      default:
        return io.finish_inline(Errc::not_supported);
    }
  }

  mutable std::mutex mutex_;
  std::condition_variable go_on_;
  std::string bytes_;
  std::vector<Change> changes_;
  bool hangs_ = false;
};

}  // namespace blockloom::test
