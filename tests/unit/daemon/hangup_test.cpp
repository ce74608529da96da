#include "server/daemon/hangup.hpp"

#include <atomic>
#include <chrono>
#include <csignal>
#include <thread>

#include <doctest/doctest.h>
#include <unistd.h>

using namespace blockloom;

namespace {

void wait_for(const std::atomic<int>& count, int goal) {
  for (int i = 0; count < goal && i < 3000; ++i)
    std::this_thread::sleep_for(std::chrono::milliseconds(10));
  CHECK(count >= goal);
}

}  // namespace

TEST_CASE("SIGHUP runs the callback while the watch lives, and the old handler after it") {
  static std::atomic<int> old_handler_ran{0};
  struct sigaction mine {};
  mine.sa_handler = [](int) { ++old_handler_ran; };
  struct sigaction before {};
  REQUIRE(::sigaction(SIGHUP, &mine, &before) == 0);
  for (int round = 1; round <= 2; ++round) {
    std::atomic<int> calls{0};
    {
      auto watch = HangupWatch::start([&] { ++calls; });
      REQUIRE(watch);
      ::kill(::getpid(), SIGHUP);
      wait_for(calls, 1);
      ::kill(::getpid(), SIGHUP);
      wait_for(calls, 2);
    }
    CHECK(old_handler_ran == round - 1);
    ::raise(SIGHUP);
    CHECK(old_handler_ran == round);
  }
  ::sigaction(SIGHUP, &before, nullptr);
}

TEST_CASE("the callback runs on a thread of its own, away from the signal") {
  std::atomic<int> calls{0};
  std::atomic<bool> elsewhere{false};
  const auto main_thread = std::this_thread::get_id();
  auto watch = HangupWatch::start([&] {
    elsewhere = std::this_thread::get_id() != main_thread;
    ++calls;
  });
  REQUIRE(watch);
  ::raise(SIGHUP);
  wait_for(calls, 1);
  CHECK(elsewhere);
}

TEST_CASE("a process has one watch at a time") {
  auto first = HangupWatch::start([] {});
  REQUIRE(first);
  auto second = HangupWatch::start([] {});
  REQUIRE_FALSE(second);
  CHECK(second.code() == Errc::busy);
}
