#include "server/device/range_lock.hpp"

#include <atomic>
#include <thread>

#include <doctest/doctest.h>

#include "server/device/registry.hpp"
#include "tests/unit/device/helpers.hpp"

using namespace blockloom;
using namespace std::chrono_literals;

namespace {

DeviceSpec memory_device(const std::string& leg = "mem:1M") {
  return {"v", "", "", "0 2048 linear " + leg + " 0", false};
}

/// A hold that a test waits for.
struct Held {
  RangeHold hold;
  Device& device;
  std::atomic<bool> granted{false};

  Held(Device& d, std::uint64_t offset, std::uint64_t length) : device(d) {
    hold.offset = Bytes(offset);
    hold.length = Bytes(length);
    hold.owner = this;
    hold.granted = [](RangeHold& h) noexcept {
      auto* self = static_cast<Held*>(h.owner);
      self->granted = true;
      self->granted.notify_all();
    };
    if (device.hold(hold) == Submit::done) granted = true;
  }
  void wait() { granted.wait(false); }
  void release() { device.release(hold); }
};

struct HeldWrite : Waiter {
  HeldWrite(Device& d, std::uint64_t offset, std::vector<std::byte>& data)
      : Waiter(d, Op::write, Bytes(offset), Bytes(data.size()), data.data()) {}
};

}  // namespace

TEST_CASE("a writer that meets a held range waits for its end, others and readers do not") {
  Registry registry;
  REQUIRE(registry.create(memory_device()));
  const auto device = device_of(registry, "v");
  Held held(*device, 4096, 4096);
  REQUIRE(held.granted);
  auto data = filled(1024, 1);
  HeldWrite inside(*device, 8192 - 512, data), below(*device, 3072, data),
      above(*device, 8192, data);
  inside.submit();
  below.submit();
  above.submit();
  CHECK_FALSE(inside.ended);
  CHECK_FALSE(inside.again);
  CHECK(below.ended);
  CHECK(above.ended);
  auto seen = filled(1024, 9);
  CHECK(read_at(*device, 8192 - 512, seen) == Errc::ok);
  CHECK(std::vector(seen.begin(), seen.begin() + 512) == filled(512, 0));

  HeldWrite own(*device, 4096, data);
  own.request.hold = &held.hold;
  CHECK(own.run() == Errc::ok);

  held.release();
  CHECK(inside.again);
  CHECK(inside.wait() == Errc::ok);
  CHECK(read_at(*device, 8192 - 512, seen) == Errc::ok);
  CHECK(seen == data);
}

TEST_CASE("trims and zeroes are writers too") {
  Registry registry;
  REQUIRE(registry.create(memory_device()));
  const auto device = device_of(registry, "v");
  Held held(*device, 0, 512);
  Waiter trim(*device, Op::trim, Bytes(0), Bytes(4096)),
      zero(*device, Op::zero, Bytes(0), Bytes(512));
  trim.submit();
  zero.submit();
  CHECK_FALSE(trim.ended);
  CHECK_FALSE(zero.ended);
  held.release();
  CHECK(trim.wait() == Errc::ok);
  CHECK(zero.wait() == Errc::ok);
}

TEST_CASE("the first hold waits for writers that were on their way before it") {
  Registry registry;
  REQUIRE(registry.create(memory_device("fault:[write=hang]:mem:1M")));
  const auto device = device_of(registry, "v");
  auto data = filled(512, 1);
  HeldWrite hung(*device, 0, data);
  hung.submit();
  // Its range is not known any more: even another one waits, once.
  Held held(*device, 8192, 512);
  CHECK_FALSE(held.granted);
  HeldWrite late(*device, 8192, data);
  late.submit();
  CHECK_FALSE(late.ended);
  const std::vector<std::string> clear{"leg", "0", "clear"};
  REQUIRE(registry.message("v", Sectors(0), clear));
  held.wait();
  CHECK(hung.wait() == Errc::ok);
  held.release();
  CHECK(late.wait() == Errc::ok);
}

TEST_CASE("a later hold waits only for writers in its range, and for holds before it") {
  Registry registry;
  REQUIRE(registry.create(memory_device("fault:[]:mem:1M")));
  const auto device = device_of(registry, "v");
  Held first(*device, 0, 512);
  first.release();  // from here on writers are listed
  const std::vector<std::string> hang{"leg", "0", "rules", "write=hang"};
  REQUIRE(registry.message("v", Sectors(0), hang));
  auto data = filled(512, 1);
  HeldWrite hung(*device, 0, data);
  hung.submit();
  Held apart(*device, 512, 512);
  CHECK(apart.granted);
  Held over(*device, 0, 1024);
  CHECK_FALSE(over.granted);
  apart.release();
  CHECK_FALSE(over.granted);
  const std::vector<std::string> clear{"leg", "0", "clear"};
  REQUIRE(registry.message("v", Sectors(0), clear));
  over.wait();
  CHECK(hung.wait() == Errc::ok);
  over.release();
}

TEST_CASE("a parked writer does not keep a suspend waiting, and the holder may end meanwhile") {
  Registry registry;
  REQUIRE(registry.create(memory_device()));
  const auto device = device_of(registry, "v");
  Held held(*device, 0, 512);
  auto data = filled(512, 1);
  HeldWrite parked(*device, 0, data);
  parked.submit();
  REQUIRE(registry.suspend("v", {true, 1s, {}}));
  held.release();
  CHECK(parked.again);
  REQUIRE(registry.resume("v"));
  CHECK(parked.wait() == Errc::ok);
}

TEST_CASE("a counter under a hold loses no increment, whoever writes beside it") {
  Registry registry;
  REQUIRE(registry.create(memory_device("fault:[write=delay:100us]:mem:1M")));
  const auto device = device_of(registry, "v");
  constexpr int threads = 3, rounds = 200;
  std::vector<std::thread> running;
  for (int t = 0; t < threads; ++t)
    running.emplace_back([&] {
      for (int i = 0; i < rounds; ++i) {
        Held held(*device, 0, 512);
        held.wait();
        auto block = filled(512, 0);
        CHECK(read_at(*device, 0, block) == Errc::ok);
        std::uint32_t count;
        std::memcpy(&count, block.data(), sizeof count);
        ++count;
        std::memcpy(block.data(), &count, sizeof count);
        HeldWrite write(*device, 0, block);
        write.request.hold = &held.hold;
        CHECK(write.run() == Errc::ok);
        held.release();
      }
    });
  std::atomic<bool> stop{false};
  std::thread other([&] {
    auto data = filled(1024, 0xff);
    while (!stop)
      CHECK(write_at(*device, 512, data) == Errc::ok);
  });
  for (auto& thread : running)
    thread.join();
  stop = true;
  other.join();
  auto block = filled(512, 0);
  REQUIRE(read_at(*device, 0, block) == Errc::ok);
  std::uint32_t count;
  std::memcpy(&count, block.data(), sizeof count);
  CHECK(count == threads * rounds);
}

TEST_CASE("a request that waits for a resume can be taken back, another cannot") {
  Registry registry;
  REQUIRE(registry.create(memory_device("fault:[read=hang]:mem:1M")));
  const auto device = device_of(registry, "v");
  auto data = filled(512, 0);
  Waiter out(*device, Op::read, Bytes(0), Bytes(512), data.data());
  out.submit();
  CHECK_FALSE(device->withdraw(out.request));
  const std::vector<std::string> clear{"leg", "0", "clear"};
  REQUIRE(registry.message("v", Sectors(0), clear));
  CHECK(out.wait() == Errc::ok);
  REQUIRE(registry.suspend("v", {}));
  Waiter kept(*device, Op::flush, Bytes(0), Bytes(0)),
      taken(*device, Op::flush, Bytes(0), Bytes(0));
  kept.submit();
  taken.submit();
  CHECK(device->withdraw(taken.request));
  CHECK(taken.request.status == Errc::cancelled);
  CHECK_FALSE(device->withdraw(taken.request));
  CHECK(device->info().queued == 1);
  REQUIRE(registry.resume("v"));
  CHECK(kept.again);
  CHECK_FALSE(taken.again);
  CHECK(kept.wait() == Errc::ok);
}
