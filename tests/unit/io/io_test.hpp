#pragma once

#include <condition_variable>
#include <deque>
#include <functional>
#include <memory>
#include <mutex>
#include <vector>

#include "server/io/io_client.hpp"
#include "tests/unit/leg/leg_test.hpp"

namespace blockloom::test {

/// A leg that holds every request until the test ends it.
class ManualLeg final : public Leg {
 public:
  explicit ManualLeg(std::string uri = "manual") : Leg(std::move(uri)) {}
  Bytes size() const noexcept override { return Bytes(1 << 20); }

  std::size_t held() {
    std::lock_guard lock(mutex_);
    return held_.size();
  }
  bool wait_for_held(std::size_t count) {
    std::unique_lock lock(mutex_);
    return changed_.wait_for(lock, std::chrono::seconds(60), [&] { return held_.size() >= count; });
  }
  /// Ends the oldest; false if none is held.
  bool end_one(Errc status = Errc::ok) {
    Io* io = nullptr;
    {
      std::lock_guard lock(mutex_);
      if (held_.empty()) return false;
      io = held_.front();
      held_.pop_front();
    }
    finish(*io, status);
    return true;
  }

 private:
  Submit do_submit(Io& io) noexcept override {
    std::lock_guard lock(mutex_);
    held_.push_back(&io);
    changed_.notify_all();
    return Submit::pending;
  }

  std::mutex mutex_;
  std::condition_variable changed_;
  std::deque<Io*> held_;
};

/// A leg whose submit() blocks until the test lets it go on, as a file on a dead disk does.
class BlockingLeg final : public Leg {
 public:
  BlockingLeg() : Leg("blocking") {}
  Bytes size() const noexcept override { return Bytes(1 << 20); }
  bool inline_only() const noexcept override { return true; }

  void let_go() {
    std::lock_guard lock(mutex_);
    blocked_ = false;
    changed_.notify_all();
  }
  void block() {
    std::lock_guard lock(mutex_);
    blocked_ = true;
  }
  bool wait_for_inside(int count) {
    std::unique_lock lock(mutex_);
    return changed_.wait_for(lock, std::chrono::seconds(60), [&] { return inside_ >= count; });
  }
  int served() {
    std::lock_guard lock(mutex_);
    return served_;
  }

 private:
  Submit do_submit(Io& io) noexcept override {
    std::unique_lock lock(mutex_);
    ++inside_;
    changed_.notify_all();
    changed_.wait(lock, [&] { return !blocked_; });
    --inside_;
    ++served_;
    return io.finish_inline(Errc::ok);
  }

  std::mutex mutex_;
  std::condition_variable changed_;
  bool blocked_ = true;
  int inside_ = 0, served_ = 0;
};

/// Gathers notices.
class Notices {
 public:
  static void notify(const IoNotice& notice, void* context) noexcept {
    auto& self = *static_cast<Notices*>(context);
    std::lock_guard lock(self.mutex_);
    self.list_.push_back(notice);
    self.changed_.notify_all();
  }
  /// Waits, bounded, until there are so many.
  std::vector<IoNotice> wait(std::size_t count) {
    std::unique_lock lock(mutex_);
    REQUIRE(
        changed_.wait_for(lock, std::chrono::seconds(60), [&] { return list_.size() >= count; }));
    return list_;
  }
  std::vector<IoNotice> list() {
    std::lock_guard lock(mutex_);
    return list_;
  }

 private:
  std::mutex mutex_;
  std::condition_variable changed_;
  std::vector<IoNotice> list_;
};

inline std::unique_ptr<IoClient> make_client(IoClient::Options options = {}) {
  auto client = IoClient::create(options);
  REQUIRE(client);
  REQUIRE((*client)->start());
  return std::move(*client);
}

inline IoRegion region(std::uint32_t leg, std::uint64_t offset, std::uint64_t length,
                       Duration timeout = Duration::max()) {
  return {leg, Bytes(offset), Bytes(length),
          timeout == Duration::max() ? TimePoint::max() : Clock::now() + timeout};
}

inline IoBufferRef filled(IoClient& client, const Data& data) {
  IoBufferRef buffer = client.buffers().acquire(Bytes(data.size()));
  REQUIRE(buffer);
  std::copy(data.begin(), data.end(), buffer.data());
  return buffer;
}

inline IoRequest write_request(const std::vector<IoRegion>& regions, IoBufferRef buffer,
                               Notices& notices) {
  IoRequest request;
  request.op = Op::write;
  request.regions = regions;
  request.buffer = std::move(buffer);
  request.notify = Notices::notify;
  request.context = &notices;
  return request;
}

}  // namespace blockloom::test
