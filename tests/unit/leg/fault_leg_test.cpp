#include "server/leg/fault_leg.hpp"

#include <deque>
#include <thread>

#include "tests/unit/leg/leg_test.hpp"

using namespace blockloom;
using namespace blockloom::test;
using namespace std::chrono_literals;

namespace {

std::string held(Leg& leg) {
  auto answer = leg.message("held");
  REQUIRE(answer);
  return *answer;
}

}  // namespace

TEST_CASE("without rules a fault leg is the leg that it wraps") {
  auto leg = open("fault:[]:mem:1M");
  CHECK(leg->uri() == "fault:[]:mem:1M");
  CHECK(leg->size() == Bytes(1 << 20));
  CHECK_FALSE(leg->inline_only());
  CHECK_FALSE(leg->read_only());
  const Data data = noise(4096);
  CHECK(write(*leg, 512, data) == Errc::ok);
  CHECK(read(*leg, 512, 4096) == data);
  CHECK(run(*leg, Op::flush, 0, 0) == Errc::ok);
  CHECK(extents(*leg, 8192, 4096) == std::vector{Extent{Bytes(4096), true, true}});
  CHECK(leg->totals().writes == 1);
  CHECK(leg->totals().in_flight == 0);
  CHECK(open("fault:[]:mem:1M", true)->read_only());
}

TEST_CASE("error fails with its code, and does nothing") {
  auto leg = open("fault:[write=error:ENOSPC;read=error@4096+512]:mem:1M");
  CHECK(write(*leg, 0, noise(512)) == Errc::no_space);
  CHECK(read(*leg, 0, 512) == zeroes(512));
  CHECK(run(*leg, Op::read, 4096, 512) == Errc::io);
  CHECK(leg->totals().errors == 2);
}

TEST_CASE("a count ends a rule, and the next one acts") {
  auto leg = open("fault:[write=error,x2;write=error:ENOSPC,x1]:mem:1M");
  CHECK(write(*leg, 0, noise(512)) == Errc::io);
  CHECK(leg->message("rules").value() == "write=error,x1;write=error:ENOSPC,x1");
  CHECK(write(*leg, 0, noise(512)) == Errc::io);
  CHECK(leg->message("rules").value() == "write=error:ENOSPC,x1");
  CHECK(write(*leg, 0, noise(512)) == Errc::no_space);
  CHECK(leg->message("rules").value().empty());
  CHECK(write(*leg, 0, noise(512)) == Errc::ok);
}

TEST_CASE("pass is an exception from the rules after it") {
  auto leg = open("fault:[write=pass,x2;read=pass@0+512;any=error]:mem:1M");
  const Data data = noise(1024);
  CHECK(write(*leg, 0, data) == Errc::ok);
  CHECK(write(*leg, 1024, data) == Errc::ok);
  CHECK(write(*leg, 2048, data) == Errc::io);
  CHECK(read(*leg, 0, 1024) == data);
  CHECK(run(*leg, Op::read, 512, 512) == Errc::io);
}

TEST_CASE("delay does the work after its time") {
  auto leg = open("fault:[write=delay:30ms]:mem:1M");
  const Data data = noise(512);
  const TimePoint start = Clock::now();
  CHECK(write(*leg, 0, data) == Errc::ok);
  CHECK(Clock::now() - start >= 30ms);
  CHECK(read(*leg, 0, 512) == data);
}

TEST_CASE("short does the first half, then fails") {
  auto leg = open("fault:[write=short]:mem:1M");
  const Data data = noise(4096);
  CHECK(write(*leg, 0, data) == Errc::io);
  CHECK(read(*leg, 0, 2048) == Data(data.begin(), data.begin() + 2048));
  CHECK(read(*leg, 2048, 2048) == zeroes(2048));
  CHECK(write(*leg, 4096, noise(512)) == Errc::io);
  CHECK(read(*leg, 4096, 512) == zeroes(512));
}

TEST_CASE("short over a leg that ends later fails once that has ended") {
  auto leg = open("fault:[write=short]:fault:[write=delay:20ms]:mem:1M");
  const Data data = noise(4096);
  TestIo io(Op::write, 0, 4096);
  io.data = data;
  io.io.data = io.data.data();
  CHECK(io.submit(*leg) == Submit::pending);
  REQUIRE(io.waiter.wait());
  CHECK(io.io.status == Errc::io);
  CHECK(io.io.length == Bytes(4096));
  CHECK(read(*leg, 0, 2048) == Data(data.begin(), data.begin() + 2048));
  CHECK(leg->totals().in_flight == 0);
  CHECK(leg->totals().errors == 1);
}

TEST_CASE("hang holds a request until the rules are cleared; then it proceeds") {
  auto leg = open("fault:[any=hang]:mem:1M");
  TestIo io(Op::write, 0, 512);
  io.data = noise(512);
  io.io.data = io.data.data();
  CHECK(io.submit(*leg) == Submit::pending);
  CHECK(io.waiter.completions() == 0);
  CHECK(held(*leg) == "1 hanging, 0 delayed");
  CHECK(leg->totals().in_flight == 1);
  REQUIRE(leg->message("clear"));
  REQUIRE(io.waiter.wait());
  CHECK(io.io.status == Errc::ok);
  CHECK(read(*leg, 0, 512) == io.data);
  CHECK(held(*leg) == "0 hanging, 0 delayed");
}

TEST_CASE("what hangs goes through new rules as if it came now") {
  auto leg = open("fault:[any=hang]:mem:1M");
  TestIo a(Op::read, 0, 512), b(Op::flush, 0, 0), c(Op::read, 4096, 512);
  for (TestIo* io : {&a, &b, &c})
    REQUIRE(io->submit(*leg) == Submit::pending);
  REQUIRE(leg->message("rules flush=error;read=hang@4096+512"));
  REQUIRE(a.waiter.wait());
  REQUIRE(b.waiter.wait());
  CHECK(a.io.status == Errc::ok);
  CHECK(b.io.status == Errc::io);
  CHECK(c.waiter.completions() == 0);
  REQUIRE(leg->message("clear"));
  REQUIRE(c.waiter.wait());
  CHECK(c.io.status == Errc::ok);
}

TEST_CASE("release_held ends all that is held with its status, and nothing is held after") {
  auto leg = open("fault:[read=hang;write=delay:1800s]:mem:1M");
  TestIo hanging(Op::read, 0, 512), delayed(Op::write, 0, 512);
  REQUIRE(hanging.submit(*leg) == Submit::pending);
  REQUIRE(delayed.submit(*leg) == Submit::pending);
  CHECK(held(*leg) == "1 hanging, 1 delayed");
  leg->release_held(Errc::shutdown);
  CHECK(hanging.waiter.completions() == 1);
  CHECK(delayed.waiter.completions() == 1);
  CHECK(hanging.io.status == Errc::shutdown);
  CHECK(delayed.io.status == Errc::shutdown);
  CHECK(run(*leg, Op::read, 0, 512) == Errc::ok);
  CHECK(run(*leg, Op::write, 0, 512) == Errc::ok);
  CHECK(leg->totals().in_flight == 0);
}

TEST_CASE("release_held reaches through to a wrapped leg") {
  auto leg = open("fault:[]:fault:[read=hang]:mem:1M");
  TestIo io(Op::read, 0, 512);
  REQUIRE(io.submit(*leg) == Submit::pending);
  leg->release_held(Errc::removed);
  REQUIRE(io.waiter.wait());
  CHECK(io.io.status == Errc::removed);
}

TEST_CASE("new rules leave what is delayed to its time") {
  auto leg = open("fault:[write=delay:30ms]:mem:1M");
  TestIo io(Op::write, 0, 512);
  const TimePoint start = Clock::now();
  REQUIRE(io.submit(*leg) == Submit::pending);
  REQUIRE(leg->message("rules write=error"));
  REQUIRE(io.waiter.wait());
  CHECK(io.io.status == Errc::ok);
  CHECK(Clock::now() - start >= 30ms);
}

TEST_CASE("the number of held requests is bounded") {
  auto leg = open("fault:[any=hang]:mem:1M");
  std::deque<TestIo> ios;
  for (std::size_t i = 0; i < FaultLeg::max_held; ++i)
    REQUIRE(ios.emplace_back(Op::flush, 0, 0).submit(*leg) == Submit::pending);
  CHECK(run(*leg, Op::flush, 0, 0) == Errc::limit);
  leg->release_held(Errc::cancelled);
  for (TestIo& io : ios)
    REQUIRE(io.waiter.completions() == 1);
}

TEST_CASE("a message reaches the wrapped leg by inner") {
  auto leg = open("fault:[]:fault:[read=error]:mem:1M");
  CHECK(leg->message("inner rules").value() == "read=error");
  REQUIRE(leg->message("inner clear"));
  CHECK(run(*leg, Op::read, 0, 512) == Errc::ok);
}

TEST_CASE("a bad message is refused, and the rules stay") {
  auto leg = open("fault:[read=error]:mem:1M");
  const std::string expected =
      " to a fault leg: expected rules RULES, rules, clear, held, or inner MESSAGE";
  for (const std::string text : {"", "rule read=error", "clear all", "held 1"}) {
    const auto answer = leg->message(text);
    REQUIRE_FALSE(answer);
    CHECK(answer.error().message == "message '" + text + "'" + expected);
  }
  CHECK(leg->message("rules read=nonsense").code() == Errc::invalid);
  CHECK(leg->message("rules").value() == "read=error");
  CHECK(open("mem:64K")->message("clear").error().message == "leg 'mem:64K' takes no messages");
}

TEST_CASE("a fault URI that is malformed is refused with what was expected") {
  CHECK(refusal("fault:/a") ==
        "leg 'fault:/a': expected fault:[RULES]:URI, such as fault:[read=error]:/path");
  CHECK(refusal("fault:[read=error]/a") ==
        "leg 'fault:[read=error]/a': expected fault:[RULES]:URI, such as "
        "fault:[read=error]:/path");
  CHECK(refusal("fault:[reed=error]:mem:1M") ==
        "leg 'fault:[reed=error]:mem:1M': fault rule 'reed=error': operation 'reed': expected "
        "read, write, flush, trim, zero, cache, extents, or any");
}

TEST_CASE("many threads through hanging, delays and changing rules: each request ends once") {
  auto leg = open("fault:[any=hang]:mem:1M");
  std::atomic<bool> stop{false};
  std::atomic<int> bad{0};
  std::vector<std::thread> clients;
  for (unsigned t = 0; t < 3; ++t)
    clients.emplace_back([&, t] {
      std::mt19937 random(t);
      while (!stop) {
        TestIo io(random() % 2 == 0 ? Op::read : Op::write, random() % 64 * 512, 1024);
        if (io.submit(*leg) == Submit::pending && !io.waiter.wait()) ++bad;
        if (io.waiter.completions() > 1) ++bad;
      }
    });
  for (int i = 0; i < 100; ++i) {
    for (const char* text : {"rules any=delay:100us", "rules read=hang;write=short", "clear",
                             "rules any=hang", "rules any=error,x5"}) {
      if (!leg->message(text)) ++bad;
      std::this_thread::yield();
    }
  }
  stop = true;
  leg->release_held(Errc::shutdown);
  for (auto& client : clients)
    client.join();
  CHECK(bad == 0);
  CHECK(leg->totals().in_flight == 0);
}
