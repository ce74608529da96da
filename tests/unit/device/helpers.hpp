#pragma once

#include <chrono>
#include <condition_variable>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <mutex>
#include <string>
#include <thread>
#include <vector>

#include <stdlib.h>

#include "server/device/registry.hpp"

namespace blockloom {

/// A folder that goes with the test.
struct TemporaryFolder {
  std::filesystem::path path;
  TemporaryFolder() {
    std::string pattern = (std::filesystem::temp_directory_path() / "blockloom-XXXXXX").string();
    path = ::mkdtemp(pattern.data());
  }
  ~TemporaryFolder() { std::filesystem::remove_all(path); }
  std::string file(const std::string& name, std::uint64_t size) const {
    const auto full = path / name;
    std::ofstream(full).close();
    std::filesystem::resize_file(full, size);
    return full.string();
  }
};

/// A request that a test waits for, the way a worker of nbdkit does.
struct Waiter {
  Request request;
  std::mutex mutex;
  std::condition_variable changed;
  bool ended = false, again = false;
  Device& device;

  explicit Waiter(Device& d, Op op, Bytes offset, Bytes length, std::byte* data = nullptr)
      : device(d) {
    request.op = op;
    request.offset = offset;
    request.length = length;
    request.data = data;
    request.owner = this;
    request.complete = [](Request& r) noexcept {
      auto* self = static_cast<Waiter*>(r.owner);
      std::lock_guard lock(self->mutex);
      self->ended = true;
      self->changed.notify_all();
    };
    request.retry = [](Request& r) noexcept {
      auto* self = static_cast<Waiter*>(r.owner);
      std::lock_guard lock(self->mutex);
      self->again = true;
      self->changed.notify_all();
    };
  }

  void submit() {
    // The completion may run before submit() returns.
    if (device.submit(request) != Submit::done) return;
    std::lock_guard lock(mutex);
    ended = true;
  }

  /// Carries the request to its end, through any number of suspensions.
  Errc wait() {
    std::unique_lock lock(mutex);
    while (!ended) {
      changed.wait(lock, [&] { return ended || again; });
      if (ended || !again) continue;
      again = false;
      lock.unlock();
      const bool done = device.submit(request) == Submit::done;
      lock.lock();
      if (done) ended = true;
    }
    return request.status;
  }
  Errc run() {
    submit();
    return wait();
  }
};

inline Errc write_at(Device& device, std::uint64_t offset, std::vector<std::byte>& data,
                     std::uint8_t flags = 0) {
  Waiter w(device, Op::write, Bytes(offset), Bytes(data.size()), data.data());
  w.request.flags = flags;
  return w.run();
}

inline Errc read_at(Device& device, std::uint64_t offset, std::vector<std::byte>& data) {
  return Waiter(device, Op::read, Bytes(offset), Bytes(data.size()), data.data()).run();
}

inline std::vector<std::byte> filled(std::size_t size, int value) {
  return std::vector<std::byte>(size, static_cast<std::byte>(value));
}

inline std::shared_ptr<Device> device_of(Registry& registry, const std::string& name) {
  return registry.find(name).value();
}

/// Waits for a condition; false when it did not come true in ten seconds.
template <class Condition>
bool eventually(Condition condition) {
  for (int i = 0; i < 10000 && !condition(); ++i)
    std::this_thread::sleep_for(std::chrono::milliseconds(1));
  return condition();
}

}  // namespace blockloom
