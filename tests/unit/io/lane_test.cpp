#include "server/io/lane.hpp"

#include <atomic>
#include <vector>

#include "tests/unit/io/io_test.hpp"

using namespace blockloom;
using namespace blockloom::test;
using namespace std::chrono_literals;

namespace {

struct Carried {
  Io io;
  Lane::Item item;
  std::mutex mutex;
  std::condition_variable changed;
  bool ended = false;

  explicit Carried(Op op = Op::write) {
    io.op = op;
    io.length = Bytes(512);
    io.owner = this;
    io.complete = [](Io& i) noexcept { static_cast<Carried*>(i.owner)->end(); };
    item.io = &io;
    item.done = [](Lane::Item& i) noexcept { static_cast<Carried*>(i.io->owner)->end(); };
  }
  void end() {
    std::lock_guard lock(mutex);
    ended = true;
    changed.notify_all();
  }
  bool wait() {
    std::unique_lock lock(mutex);
    return changed.wait_for(lock, 60s, [&] { return ended; });
  }
};

}  // namespace

TEST_CASE("the submitter never waits for a leg that blocks") {
  auto leg = std::make_shared<BlockingLeg>();
  Lane lane("test-lane", leg, 2);
  Carried one, two;
  REQUIRE(lane.push(one.item));
  REQUIRE(leg->wait_for_inside(1));
  REQUIRE(lane.push(two.item));
  CHECK_FALSE(one.ended);
  leg->let_go();
  CHECK(one.wait());
  CHECK(two.wait());
  CHECK(leg->served() == 2);
}

TEST_CASE("what was not sent can be taken back, what was sent cannot") {
  auto leg = std::make_shared<BlockingLeg>();
  Lane lane("test-lane", leg, 1);
  Carried sent, first, second, third;
  REQUIRE(lane.push(sent.item));
  REQUIRE(leg->wait_for_inside(1));
  for (Carried* carried : {&first, &second, &third})
    REQUIRE(lane.push(carried->item));
  CHECK_FALSE(lane.take_back(sent.item));
  CHECK(lane.take_back(second.item));
  CHECK_FALSE(lane.take_back(second.item));
  CHECK(lane.take_back(third.item));
  leg->let_go();
  CHECK(first.wait());
  CHECK_FALSE(second.ended);
  CHECK(leg->served() == 2);
}

TEST_CASE("nothing waits behind an operation that may take long") {
  auto leg = std::make_shared<BlockingLeg>();
  Lane lane("test-lane", leg, 2);
  Carried flush(Op::flush), write;
  REQUIRE(lane.push(flush.item));
  REQUIRE(leg->wait_for_inside(1));
  REQUIRE(lane.push(write.item));
  CHECK(leg->wait_for_inside(2));
  leg->let_go();
  CHECK(flush.wait());
  CHECK(write.wait());
}

TEST_CASE("a lane carries what completes later, too") {
  auto leg = std::make_shared<ManualLeg>();
  Lane lane("test-lane", leg, 1);
  Carried carried;
  REQUIRE(lane.push(carried.item));
  REQUIRE(leg->wait_for_held(1));
  CHECK(leg->end_one());
  CHECK(carried.wait());
}

TEST_CASE("a lane ends although its thread is stuck in the leg") {
  auto leg = std::make_shared<BlockingLeg>();
  Carried carried;
  {
    Lane lane("test-lane", leg, 1);
    REQUIRE(lane.push(carried.item));
    REQUIRE(leg->wait_for_inside(1));
  }
  leg->let_go();
  CHECK(carried.wait());
}

TEST_CASE("many submitters, and all is carried once") {
  auto leg = std::make_shared<BlockingLeg>();
  leg->let_go();
  std::atomic<int> failed{0};
  {
    Lane lane("test-lane", leg, 3);
    std::vector<std::thread> threads;
    for (int t = 0; t < 4; ++t)
      threads.emplace_back([&] {
        for (int i = 0; i < 500; ++i) {
          Carried carried(i % 50 == 0 ? Op::flush : Op::write);
          if (!lane.push(carried.item) || !carried.wait()) ++failed;
          std::lock_guard let_the_lane_leave(carried.mutex);
        }
      });
    for (auto& thread : threads)
      thread.join();
  }
  CHECK(failed == 0);
  CHECK(leg->served() == 2000);
}
