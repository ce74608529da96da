#include "server/base/timer_queue.hpp"

#include <future>
#include <memory>
#include <vector>

#include <doctest/doctest.h>

using namespace blockloom;
using namespace std::chrono_literals;

TEST_CASE("callbacks run in the order of their times") {
  TimerQueue timers("test");
  std::vector<int> order;
  std::promise<void> last;
  const auto now = Clock::now();
  timers.schedule(now + 20ms, [&](Errc) {
    order.push_back(2);
    last.set_value();
  });
  timers.schedule(now + 10ms, [&](Errc) { order.push_back(1); });
  last.get_future().wait();
  CHECK(order == std::vector{1, 2});
}

TEST_CASE("a cancelled callback never runs, and a second cancel says so") {
  TimerQueue timers("test");
  bool ran = false;
  const TimerId id = timers.schedule(Clock::now() + 1h, [&](Errc) { ran = true; });
  CHECK(timers.waiting() == 1);
  CHECK(timers.cancel(id));
  CHECK_FALSE(timers.cancel(id));
  timers.stop();
  CHECK_FALSE(ran);
}

TEST_CASE("stop runs what waits, early and marked, and so does a later schedule") {
  TimerQueue timers("test");
  Errc first = Errc::ok, second = Errc::ok;
  timers.schedule(Clock::now() + 1h, [&](Errc e) { first = e; });
  timers.stop();
  CHECK(first == Errc::shutdown);
  CHECK(timers.schedule(Clock::now() + 1h, [&](Errc e) { second = e; }) == 0);
  CHECK(second == Errc::shutdown);
}

TEST_CASE("a callback may schedule and cancel others") {
  TimerQueue timers("test");
  std::promise<void> done;
  bool cancelled_ran = false;
  const TimerId victim = timers.schedule(Clock::now() + 1h, [&](Errc) { cancelled_ran = true; });
  timers.schedule(Clock::now(), [&](Errc) {
    timers.cancel(victim);
    timers.schedule(Clock::now(), [&](Errc) { done.set_value(); });
  });
  done.get_future().wait();
  timers.stop();
  CHECK_FALSE(cancelled_ran);
}

TEST_CASE("a callback may be what ends the queue") {
  auto timers = std::make_unique<TimerQueue>("test");
  std::promise<Errc> late;
  std::promise<void> ended;
  timers->schedule(Clock::now() + 1h, [&](Errc e) { late.set_value(e); });
  timers->schedule(Clock::now(), [&](Errc) {
    timers.reset();
    ended.set_value();
  });
  ended.get_future().wait();
  CHECK(late.get_future().get() == Errc::shutdown);
}
