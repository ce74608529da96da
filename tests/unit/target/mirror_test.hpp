#pragma once

#include <fmt/format.h>

#include "tests/unit/target/target_test.hpp"

namespace blockloom::test {

/// A mirror target as a device drives it.
class LiveMirror {
 public:
  explicit LiveMirror(const std::string& text) : target_(create(text, legs)) {
    const auto started = target_->preresume();
    REQUIRE_MESSAGE(started, started.error().message);
    target_->resume();
  }
  ~LiveMirror() {
    if (target_) suspend();
  }
  LiveMirror(const LiveMirror&) = delete;
  LiveMirror& operator=(const LiveMirror&) = delete;

  void suspend() {
    target_->presuspend();
    target_->postsuspend();
  }
  void resume() {
    REQUIRE(target_->preresume());
    target_->resume();
  }
  /// Gives up the target without closing its record: as after kill -9.
  std::unique_ptr<Target> take() { return std::move(target_); }

  Errc submit(Op op, std::uint64_t offset, std::uint64_t length, std::byte* data,
              Extents* extents = nullptr, std::uint8_t flags = 0) {
    Io io;
    io.op = op;
    io.flags = flags;
    io.offset = Bytes(offset);
    io.length = Bytes(length);
    io.data = data;
    io.extents = extents;
    Waiter waiter;
    waiter.attach(io);
    if (target_->map(io) == Map::pending) REQUIRE(waiter.wait());
    return io.status;
  }
  Errc write(std::uint64_t offset, Data data) {
    return submit(Op::write, offset, data.size(), data.data());
  }
  Data read(std::uint64_t offset, std::uint64_t length) {
    Data data(length, std::byte{0xa5});
    CHECK(submit(Op::read, offset, length, data.data()) == Errc::ok);
    return data;
  }
  Errc flush() { return submit(Op::flush, 0, 0, nullptr); }

  /// The answer; a refusal is the test's failure.
  std::string message(const std::vector<std::string>& words) {
    auto answer = target_->message(words);
    REQUIRE_MESSAGE(answer, answer.error().message);
    return *answer;
  }
  Target& operator*() { return *target_; }
  Target* operator->() { return target_.get(); }

  /// Waits, bounded, until the status holds this text.
  bool wait_for_status(const std::string& text) {
    for (int i = 0; i < 6000; ++i) {
      if (target_->status().find(text) != std::string::npos) return true;
      std::this_thread::sleep_for(std::chrono::milliseconds(10));
    }
    return false;
  }

  Legs legs;

 private:
  std::unique_ptr<Target> target_;
};

}  // namespace blockloom::test
