#include "server/control/watcher.hpp"

#include <optional>

#include <doctest/doctest.h>

#include "tests/unit/control/support.hpp"

using namespace blockloom;
using namespace std::chrono_literals;
using control::Params;
using control::Watcher;

namespace {

rpc::Value params(std::string_view text) {
  rpc::Value value;
  rpc::Failure failure;
  REQUIRE(rpc::parse_value(text, value, failure));
  return value;
}

/// What a wait answered, if it did.
struct Heard {
  std::optional<Errc> code;
  Watcher::Answer answer() {
    return [this](Result<rpc::Value> result) {
      REQUIRE_FALSE(code);
      code = result.code();
    };
  }
};

}  // namespace

TEST_CASE("a wait follows its device through a rename") {
  Registry registry;
  REQUIRE(registry.create({"a", "", "", "", false}));
  Watcher watcher(registry);
  Heard heard;
  const auto wanted = params(R"({"device":"a","event_number":2})");
  watcher.wait(1, Params(wanted), Clock::now(), heard.answer());
  REQUIRE(registry.rename("a", "b"));
  watcher.pump();
  CHECK_FALSE(heard.code);
  REQUIRE(registry.load("b", "0 8 zero", false));
  watcher.pump();
  CHECK(heard.code == Errc::ok);
}

TEST_CASE("a new device of a removed one's name does not answer for it") {
  Registry registry;
  REQUIRE(registry.create({"a", "", "", "", false}));
  Watcher watcher(registry);
  Heard heard;
  const auto wanted = params(R"({"device":"a","event_number":100})");
  watcher.wait(1, Params(wanted), Clock::now(), heard.answer());
  const auto kept = registry.find("a");  // as a client that has it open
  REQUIRE(registry.remove("a", {}));
  REQUIRE(registry.create({"a", "", "", "", false}));
  watcher.pump();
  CHECK(heard.code == Errc::removed);
}

TEST_CASE("events missed by a late pump do not hide a removal") {
  Registry registry;
  REQUIRE(registry.create({"a", "", "", "", false}));
  Watcher watcher(registry);
  Heard heard;
  const auto wanted = params(R"({"device":"a","event_number":100})");
  watcher.wait(1, Params(wanted), Clock::now(), heard.answer());
  const auto kept = registry.find("a");
  REQUIRE(registry.remove("a", {}));
  for (std::size_t i = 0; i < Events::kept + 10; ++i)
    registry.events().publish({0, 0, "other", 1, "message", ""});
  watcher.pump();
  CHECK(heard.code == Errc::removed);
}

TEST_CASE("a follower is told how many events it missed") {
  Registry registry;
  Watcher watcher(registry);
  std::vector<std::pair<std::string, rpc::Value>> told;
  const auto wanted = params(R"({"follow":true})");
  watcher.events(
      1, Params(wanted), [](Result<rpc::Value> result) { REQUIRE(result); },
      [&](std::string_view method, const rpc::Value& value) { told.emplace_back(method, value); });
  for (std::size_t i = 0; i < Events::kept + 10; ++i)
    registry.events().publish({0, 0, "a", 1, "message", ""});
  watcher.pump();
  REQUIRE(told.size() == Events::kept + 1);
  CHECK(told[0].first == "events_lost");
  CHECK(told[0].second["lost"].whole() == 10);
  CHECK(told[1].second["sequence"].whole() == 11);
}

TEST_CASE("one who asks late learns how many events are gone") {
  Registry registry;
  Watcher watcher(registry);
  for (std::size_t i = 0; i < Events::kept + 10; ++i)
    registry.events().publish({0, 0, "a", 1, "message", ""});
  const auto wanted = params(R"({"since":3})");
  watcher.events(
      1, Params(wanted),
      [](Result<rpc::Value> result) {
        REQUIRE(result);
        CHECK((*result)["lost"].whole() == 7);
        CHECK((*result)["events"].list().size() == Events::kept);
      },
      nullptr);
}

TEST_CASE("time-outs end in their order, and only when due") {
  Registry registry;
  REQUIRE(registry.create({"a", "", "", "", false}));
  Watcher watcher(registry);
  const TimePoint now = Clock::now();
  Heard early, late, never;
  const auto at_5 = params(R"({"device":"a","timeout_s":5})");
  const auto at_9 = params(R"({"device":"a","timeout_s":9})");
  const auto no_end = params(R"({"device":"a"})");
  watcher.wait(1, Params(at_9), now, late.answer());
  watcher.wait(1, Params(at_5), now, early.answer());
  watcher.wait(1, Params(no_end), now, never.answer());
  CHECK(watcher.next_deadline() == now + 5s);
  watcher.expire(now + 4s);
  CHECK_FALSE(early.code);
  watcher.expire(now + 6s);
  CHECK(early.code == Errc::timed_out);
  CHECK_FALSE(late.code);
  watcher.expire(now + 9s);
  CHECK(late.code == Errc::timed_out);
  CHECK_FALSE(watcher.next_deadline());
  watcher.drop(1);
  CHECK_FALSE(never.code);
  CHECK_FALSE(watcher.has(1));
}
