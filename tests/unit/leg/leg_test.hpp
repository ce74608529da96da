#pragma once

#include <condition_variable>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <memory>
#include <mutex>
#include <random>
#include <string>
#include <vector>

#include <doctest/doctest.h>

#include "server/leg/leg.hpp"
#include "server/leg/memory_leg.hpp"

namespace blockloom::test {

using Data = std::vector<std::byte>;

/// A folder that goes away with everything in it.
class TempDir {
 public:
  TempDir() {
    std::string name = (std::filesystem::temp_directory_path() / "blockloom-XXXXXX").string();
    REQUIRE(mkdtemp(name.data()) != nullptr);
    path_ = name;
  }
  ~TempDir() {
    std::error_code ignored;
    std::filesystem::remove_all(path_, ignored);
  }
  TempDir(const TempDir&) = delete;
  TempDir& operator=(const TempDir&) = delete;

  std::string operator/(const std::string& name) const { return path_ + "/" + name; }

  /// A sparse file.
  std::string file(const std::string& name, std::uint64_t size) const {
    const std::string path = *this / name;
    { std::ofstream create(path); }
    std::filesystem::resize_file(path, size);
    return path;
  }

 private:
  std::string path_;
};

inline Data noise(std::size_t size, unsigned seed = 1) {
  std::mt19937 random(seed);
  Data data(size);
  for (std::byte& b : data)
    b = static_cast<std::byte>(random());
  return data;
}

/// Waits for one Io, whichever way it ends. Bounded, so that a lost completion fails the test.
class Waiter {
 public:
  void attach(Io& io) {
    io.owner = this;
    io.complete = [](Io& ended) noexcept {
      auto* self = static_cast<Waiter*>(ended.owner);
      std::lock_guard lock(self->mutex_);
      ++self->completions_;
      self->changed_.notify_all();
    };
  }
  bool wait() {
    std::unique_lock lock(mutex_);
    return changed_.wait_for(lock, std::chrono::seconds(60), [&] { return completions_ > 0; });
  }
  int completions() {
    std::lock_guard lock(mutex_);
    return completions_;
  }

 private:
  std::mutex mutex_;
  std::condition_variable changed_;
  int completions_ = 0;
};

/// An Io that a test hands to a leg, with its data.
struct TestIo {
  Io io;
  Data data;
  Extents extents;
  Waiter waiter;

  TestIo(Op op, std::uint64_t offset, std::uint64_t length, std::uint8_t flags = 0) {
    io.op = op;
    io.flags = flags;
    io.offset = Bytes(offset);
    io.length = Bytes(length);
    if (op == Op::read || op == Op::write) data.resize(length);
    io.data = data.data();
    io.extents = &extents;
    waiter.attach(io);
  }
  TestIo(const TestIo&) = delete;
  TestIo& operator=(const TestIo&) = delete;

  Submit submit(Leg& leg) { return leg.submit(io); }
  Errc run(Leg& leg) {
    if (submit(leg) == Submit::pending) REQUIRE(waiter.wait());
    return io.status;
  }
};

inline Errc run(Leg& leg, Op op, std::uint64_t offset, std::uint64_t length,
                std::uint8_t flags = 0) {
  return TestIo(op, offset, length, flags).run(leg);
}

inline Errc write(Leg& leg, std::uint64_t offset, const Data& data, std::uint8_t flags = 0) {
  TestIo io(Op::write, offset, data.size(), flags);
  io.data = data;
  io.io.data = io.data.data();
  return io.run(leg);
}

inline Data read(Leg& leg, std::uint64_t offset, std::uint64_t length) {
  TestIo io(Op::read, offset, length);
  io.data.assign(length, std::byte{0xa5});
  REQUIRE(io.run(leg) == Errc::ok);
  return io.data;
}

inline std::vector<Extent> extents(Leg& leg, std::uint64_t offset, std::uint64_t length,
                                   std::uint8_t flags = 0) {
  TestIo io(Op::extents, offset, length, flags);
  REQUIRE(io.run(leg) == Errc::ok);
  return io.extents.list();
}

inline Data zeroes(std::size_t size) {
  return Data(size);
}

inline std::shared_ptr<Leg> open(const std::string& uri, bool read_only = false) {
  LegContext context;
  auto leg = open_leg(uri, read_only, context);
  REQUIRE_MESSAGE(leg, leg.error().message);
  return *leg;
}

inline std::string refusal(const std::string& uri, bool read_only = false) {
  LegContext context;
  const auto leg = open_leg(uri, read_only, context);
  REQUIRE_FALSE(leg);
  return leg.error().message;
}

}  // namespace blockloom::test
