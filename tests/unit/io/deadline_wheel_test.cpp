#include "server/io/deadline_wheel.hpp"

#include <atomic>
#include <deque>
#include <thread>
#include <vector>

#include <doctest/doctest.h>

using namespace blockloom;
using namespace std::chrono_literals;

namespace {

struct Alarm {
  DeadlineWheel::Node node;
  std::atomic<int> fired{0};
  std::atomic<TimePoint> at{TimePoint{}};
  std::mutex mutex;
  std::condition_variable changed;

  Alarm() {
    node.owner = this;
    node.fire = [](DeadlineWheel::Node& n) noexcept {
      auto& self = *static_cast<Alarm*>(n.owner);
      std::lock_guard lock(self.mutex);
      self.at = Clock::now();
      ++self.fired;
      self.changed.notify_all();
    };
  }
  bool wait(int count = 1) {
    std::unique_lock lock(mutex);
    return changed.wait_for(lock, 60s, [&] { return fired >= count; });
  }
};

}  // namespace

TEST_CASE("a deadline fires once, and never early") {
  DeadlineWheel wheel("test");
  REQUIRE(wheel.start());
  Alarm alarm;
  const TimePoint when = Clock::now() + 20ms;
  wheel.arm(alarm.node, when);
  REQUIRE(alarm.wait());
  CHECK(alarm.at.load() >= when);
  CHECK_FALSE(wheel.disarm(alarm.node));
  CHECK(alarm.fired == 1);
}

TEST_CASE("one in the past fires soon") {
  DeadlineWheel wheel("test");
  REQUIRE(wheel.start());
  Alarm alarm;
  wheel.arm(alarm.node, Clock::now() - 1s);
  CHECK(alarm.wait());
}

TEST_CASE("a nearer deadline wakes the thread that sleeps for a farther one") {
  DeadlineWheel wheel("test");
  REQUIRE(wheel.start());
  Alarm far, near;
  wheel.arm(far.node, Clock::now() + 1h);
  wheel.arm(near.node, Clock::now() + 5ms);
  CHECK(near.wait());
  CHECK(far.fired == 0);
  CHECK(wheel.disarm(far.node));
}

TEST_CASE("what is disarmed does not fire") {
  DeadlineWheel wheel("test");
  REQUIRE(wheel.start());
  Alarm disarmed, later;
  const TimePoint when = Clock::now() + 50ms;
  wheel.arm(disarmed.node, when);
  wheel.arm(later.node, when + 20ms);
  CHECK(wheel.disarm(disarmed.node));
  CHECK_FALSE(wheel.disarm(disarmed.node));
  REQUIRE(later.wait());
  CHECK(disarmed.fired == 0);
}

TEST_CASE("a deadline more than a turn away waits for its own turn") {
  DeadlineWheel wheel("test");
  REQUIRE(wheel.start());
  Alarm beyond, soon;
  // The same slot as `soon`, one turn of 4096 ticks later.
  const TimePoint when = Clock::now() + 10ms;
  wheel.arm(beyond.node, when + 4096 * DeadlineWheel::tick);
  wheel.arm(soon.node, when);
  REQUIRE(soon.wait());
  CHECK(beyond.fired == 0);
  CHECK(wheel.disarm(beyond.node));
}

TEST_CASE("a callback may arm its own node again") {
  DeadlineWheel wheel("test");
  REQUIRE(wheel.start());
  struct Again {
    DeadlineWheel* wheel;
    DeadlineWheel::Node node;
    std::atomic<int> left{5};
    std::mutex mutex;
    std::condition_variable changed;
  } again{&wheel, {}, {}, {}, {}};
  again.left = 5;
  again.node.owner = &again;
  again.node.fire = [](DeadlineWheel::Node& n) noexcept {
    auto& self = *static_cast<Again*>(n.owner);
    std::lock_guard lock(self.mutex);
    if (--self.left > 0) self.wheel->arm(n, Clock::now() + 2ms);
    self.changed.notify_all();
  };
  wheel.arm(again.node, Clock::now());
  std::unique_lock lock(again.mutex);
  CHECK(again.changed.wait_for(lock, 60s, [&] { return again.left == 0; }));
}

TEST_CASE("many threads arm and disarm; each deadline fires or is disarmed, never both") {
  DeadlineWheel wheel("test");
  REQUIRE(wheel.start());
  std::atomic<int> wrong{0};
  std::vector<std::thread> threads;
  for (int t = 0; t < 3; ++t)
    threads.emplace_back([&, t] {
      for (int i = 0; i < 200; ++i) {
        Alarm alarm;
        wheel.arm(alarm.node, Clock::now() + std::chrono::microseconds((i * 37 + t) % 4000));
        if (i % 3 == 0) std::this_thread::sleep_for(1ms);
        if (wheel.disarm(alarm.node)) {
          if (alarm.fired != 0) ++wrong;
        } else if (!alarm.wait() || alarm.fired != 1) {
          ++wrong;
        }
        std::lock_guard let_the_callback_leave(alarm.mutex);
      }
    });
  for (auto& thread : threads)
    thread.join();
  CHECK(wrong == 0);
}

TEST_CASE("stop joins, and what is armed then does not fire") {
  Alarm alarm;
  {
    DeadlineWheel wheel("test");
    REQUIRE(wheel.start());
    wheel.arm(alarm.node, Clock::now() + 50ms);
    wheel.stop();
    CHECK(wheel.disarm(alarm.node));
  }
  CHECK(alarm.fired == 0);
}

TEST_CASE("the process has one wheel while anybody holds it") {
  const auto one = DeadlineWheel::shared();
  CHECK(DeadlineWheel::shared() == one);
}
