#include "server/base/gate.hpp"

#include <thread>
#include <vector>

#include <doctest/doctest.h>

using namespace blockloom;
using namespace std::chrono_literals;

TEST_CASE("an open gate lets in, a closed one turns back") {
  IoGate gate;
  REQUIRE(gate.enter(3));
  gate.close();
  CHECK_FALSE(gate.enter(3));
  CHECK(gate.inside() == 1);
  gate.exit(3);
  CHECK(gate.inside() == 0);
  gate.open();
  CHECK(gate.enter(0));
  gate.exit(0);
}

TEST_CASE("the marked are counted apart, and may lose their mark inside") {
  IoGate gate;
  REQUIRE(gate.enter(1, IoGate::Mark::yes));
  REQUIRE(gate.enter(2, IoGate::Mark::yes));
  REQUIRE(gate.enter(2));
  CHECK(gate.inside() == 3);
  CHECK(gate.marked() == 2);
  gate.unmark(2);
  CHECK(gate.inside() == 3);
  CHECK(gate.marked() == 1);
  gate.exit(2);
  gate.exit(2);
  gate.close();
  CHECK_FALSE(gate.enter(1, IoGate::Mark::yes));
  CHECK(gate.marked() == 1);
  gate.exit(1, IoGate::Mark::yes);
  CHECK(gate.inside() == 0);
  CHECK(gate.marked() == 0);
}

TEST_CASE("wait_idle says whether everyone left in time") {
  IoGate gate;
  REQUIRE(gate.enter(1));
  gate.close();
  CHECK_FALSE(gate.wait_idle(Clock::now() + 5ms));
  std::thread leaver([&] {
    std::this_thread::sleep_for(10ms);
    gate.exit(1);
  });
  CHECK(gate.wait_idle(Clock::now() + 60s));
  leaver.join();
}

TEST_CASE("nobody is inside once wait_idle has returned, whoever races to enter") {
  IoGate gate;
  std::atomic<int> using_it{0};
  std::atomic<bool> stop{false};
  std::atomic<bool> wrong{false};
  std::atomic<bool> owner_has_it{false};
  std::vector<std::thread> threads;
  for (int t = 0; t < 4; ++t)
    threads.emplace_back([&] {
      const std::size_t shard = this_thread_shard();
      while (!stop) {
        if (!gate.enter(shard)) {
          std::this_thread::yield();
          continue;
        }
        ++using_it;
        if (owner_has_it) wrong = true;
        --using_it;
        gate.exit(shard);
      }
    });
  for (int i = 0; i < 300; ++i) {
    gate.close();
    if (!gate.wait_idle(Clock::now() + 60s)) wrong = true;
    owner_has_it = true;
    if (using_it != 0) wrong = true;
    owner_has_it = false;
    gate.open();
  }
  stop = true;
  for (auto& t : threads)
    t.join();
  CHECK_FALSE(wrong);
}
