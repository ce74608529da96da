#include "server/leg/waiting_caller.hpp"

#include <atomic>
#include <functional>
#include <memory>
#include <thread>

#include <doctest/doctest.h>

using namespace blockloom;

namespace {

/// Sleeps in wait() as a follower does, and notes what it was asked.
class Helper final : public CallerHelp {
 public:
  void wait(WaitingCaller& caller) noexcept override {
    ++waits;
    inside = WaitingCaller::current();
    if (on_wait) on_wait(caller);
    while (!caller.told())
      caller.await_nudge();
  }
  void decline() noexcept override { ++declined; }
  void interrupt(WaitingCaller&) noexcept override { ++interrupted; }

  std::function<void(WaitingCaller&)> on_wait;
  WaitingCaller* inside = nullptr;
  int waits = 0, declined = 0;
  std::atomic<int> interrupted{0};
};

}  // namespace

TEST_CASE("a caller that no leg wants sleeps until it is told") {
  WaitingCaller caller;
  CHECK(WaitingCaller::current() == &caller);
  std::thread teller([&] { caller.tell(7); });
  CHECK(caller.wait() == 7);
  teller.join();
}

TEST_CASE("a caller is nobody's outside its scope") {
  CHECK(WaitingCaller::current() == nullptr);
  {
    WaitingCaller outer;
    {
      WaitingCaller inner;
      CHECK(WaitingCaller::current() == &inner);
    }
    CHECK(WaitingCaller::current() == &outer);
  }
  CHECK(WaitingCaller::current() == nullptr);
}

TEST_CASE("the first leg that asks gets the caller's help, and nobody is its caller meanwhile") {
  auto helper = std::make_shared<Helper>();
  WaitingCaller caller;
  CHECK(caller.offer(helper));
  CHECK_FALSE(caller.offer(std::make_shared<Helper>()));
  helper->on_wait = [](WaitingCaller& c) { c.tell(3); };
  CHECK(caller.wait() == 3);
  CHECK(helper->waits == 1);
  CHECK(helper->inside == nullptr);
  CHECK(helper->interrupted == 1);
  CHECK(WaitingCaller::current() == &caller);
  CHECK(caller.offer(helper));  // free again
}

TEST_CASE("a caller that was told before it could help declines") {
  auto helper = std::make_shared<Helper>();
  {
    WaitingCaller caller;
    CHECK(caller.offer(helper));
    caller.tell(1);
    CHECK(caller.wait() == 1);
    CHECK(helper->declined == 1);
    CHECK(caller.offer(helper));
  }
  CHECK(helper->declined == 2);  // its request ended inside submit
  CHECK(helper->waits == 0);
}

TEST_CASE("a helper lives until its caller's teller is out of it") {
  struct Slow final : CallerHelp {
    explicit Slow(std::atomic<bool>& g) : gone(g) {}
    ~Slow() { gone = true; }
    void wait(WaitingCaller& caller) noexcept override {
      while (!caller.told())
        std::this_thread::yield();
    }
    void decline() noexcept override {}
    void interrupt(WaitingCaller&) noexcept override {
      // Long enough for a caller that does not wait for the teller.
      std::this_thread::sleep_for(std::chrono::milliseconds(100));
      *gone_inside = gone.load();
    }
    std::atomic<bool>& gone;
    bool* gone_inside = nullptr;
  };
  std::atomic<bool> gone{false};
  bool gone_inside = false;
  WaitingCaller caller;
  {
    auto helper = std::make_shared<Slow>(gone);
    helper->gone_inside = &gone_inside;
    CHECK(caller.offer(std::move(helper)));
  }
  std::thread teller([&] {
    std::this_thread::sleep_for(std::chrono::milliseconds(20));
    caller.tell(1);
  });
  CHECK(caller.wait() == 1);
  teller.join();
  CHECK(gone);
  CHECK_FALSE(gone_inside);
}

TEST_CASE("a nudge ends a caller's sleep, and does not tell it anything") {
  auto helper = std::make_shared<Helper>();
  WaitingCaller caller;
  CHECK(caller.offer(helper));
  std::atomic<bool> woke{false};
  std::thread other;
  helper->on_wait = [&](WaitingCaller& c) {
    other = std::thread([&] { c.nudge(); });
    c.await_nudge();
    woke = !c.told();
    other.join();
    other = std::thread([&] { c.tell(2); });
  };
  CHECK(caller.wait() == 2);
  CHECK(woke);
  other.join();
}
