#include <doctest/doctest.h>

#include "server/device/registry.hpp"
#include "tests/unit/device/helpers.hpp"

using namespace blockloom;
using namespace std::chrono_literals;

namespace {

std::string live(Registry& registry, const std::string& name) {
  return device_of(registry, name)->table_text(false);
}

DeviceSpec spec(const std::string& name, const std::string& table) {
  return {name, "", "", table, false};
}

}  // namespace

TEST_CASE("apply creates, swaps, and leaves alone what is the same") {
  Registry registry;
  REQUIRE(registry.create(spec("a", "0 8 zero")));
  REQUIRE(registry.create(spec("b", "0 8 zero")));
  const auto before = device_of(registry, "b")->event_number();
  const auto report = registry.apply(
      {spec("a", "0 16 zero"), spec("b", " 0  8 zero # same"), spec("c", "0 8 error")});
  REQUIRE(report);
  CHECK(report.value().swapped == std::vector<std::string>{"a"});
  CHECK(report.value().unchanged == std::vector<std::string>{"b"});
  CHECK(report.value().created == std::vector<std::string>{"c"});
  CHECK(report.value().pause > 0ns);
  CHECK(live(registry, "a") == "0 16 zero \n");
  CHECK(device_of(registry, "b")->event_number() == before);
  CHECK(live(registry, "c") == "0 8 error \n");
}

TEST_CASE("apply builds stacks in any order of the file") {
  Registry registry;
  REQUIRE(registry.apply({spec("top", "0 2048 linear dev:middle 0"),
                          spec("middle", "0 2048 linear dev:bottom 0"),
                          spec("bottom", "0 2048 linear mem:1M 0")}));
  auto out = filled(512, 5);
  auto in = filled(512, 0);
  REQUIRE(write_at(*device_of(registry, "top"), 4096, out) == Errc::ok);
  REQUIRE(read_at(*device_of(registry, "bottom"), 4096, in) == Errc::ok);
  CHECK(in == out);
}

TEST_CASE("apply can grow a lower device and the one above it at once") {
  Registry registry;
  REQUIRE(registry.apply({spec("low", "0 8 zero"), spec("up", "0 8 linear dev:low 0")}));
  REQUIRE(registry.apply({spec("up", "0 64 linear dev:low 0"), spec("low", "0 64 zero")}));
  CHECK(device_of(registry, "up")->size() == Bytes(64 * 512));
}

TEST_CASE("apply can turn a stack over") {
  Registry registry;
  REQUIRE(registry.apply(
      {spec("a", "0 2048 linear dev:b 0"), spec("b", "0 2048 linear mem:1M?name=m 0")}));
  REQUIRE(registry.apply(
      {spec("b", "0 2048 linear dev:a 0"), spec("a", "0 2048 linear mem:1M?name=m 0")}));
  auto out = filled(512, 6);
  auto in = filled(512, 0);
  REQUIRE(write_at(*device_of(registry, "b"), 0, out) == Errc::ok);
  REQUIRE(read_at(*device_of(registry, "a"), 0, in) == Errc::ok);
  CHECK(in == out);
}

TEST_CASE("apply refuses a loop among its devices, and changes nothing") {
  Registry registry;
  const auto report =
      registry.apply({spec("a", "0 8 linear dev:b 0"), spec("b", "0 8 linear dev:c 0"),
                      spec("c", "0 8 linear dev:a 0")});
  REQUIRE_FALSE(report);
  CHECK(report.code() == Errc::loop);
  CHECK(registry.list().empty());
}

TEST_CASE("one bad table backs everything out, and inactive tables are as they were") {
  Registry registry;
  REQUIRE(registry.create(spec("a", "0 8 zero")));
  REQUIRE(registry.load("a", "0 32 zero", false));
  const auto report =
      registry.apply({spec("a", "0 16 zero"), spec("new", "0 8 zero"), spec("b", "0 8 bad")});
  REQUIRE_FALSE(report);
  CHECK(report.error().message.starts_with("device 'b': line 1: unknown target type 'bad'"));
  CHECK(live(registry, "a") == "0 8 zero \n");
  CHECK(device_of(registry, "a")->table_text(true) == "0 32 zero \n");
  CHECK_FALSE(registry.find("new"));
}

TEST_CASE("a device that cannot be suspended backs everything out, and all go on") {
  Registry registry;
  REQUIRE(registry.create(spec("good", "0 2048 linear mem:1M 0")));
  REQUIRE(registry.create(spec("stuck", "0 2048 linear fault:[read=hang]:mem:1M 0")));
  REQUIRE(registry.load("good", "0 32 zero", false));
  const auto stuck = device_of(registry, "stuck");
  auto data = filled(512, 0);
  Waiter hung(*stuck, Op::read, Bytes(0), Bytes(512), data.data());
  hung.submit();
  const auto report = registry.apply(
      {spec("good", "0 16 zero"), spec("stuck", "0 16 zero"), spec("new", "0 8 zero")},
      {true, 30ms, {}});
  REQUIRE_FALSE(report);
  CHECK(report.code() == Errc::timed_out);
  CHECK(live(registry, "good") == "0 2048 linear mem:1M 0\n");
  CHECK(device_of(registry, "good")->table_text(true) == "0 32 zero \n");
  CHECK_FALSE(device_of(registry, "good")->info().suspended);
  CHECK_FALSE(stuck->info().inactive_table);
  CHECK_FALSE(registry.find("new"));
  auto out = filled(512, 1);
  CHECK(write_at(*device_of(registry, "good"), 0, out) == Errc::ok);
  CHECK(registry.message("stuck", Sectors(0), std::vector<std::string>{"leg", "0", "clear"}));
  CHECK(hung.wait() == Errc::ok);
}

namespace {

/// A target whose preresume fails, as a snapshot's does when its store cannot be read.
class Unready final : public Target {
 public:
  std::string_view type() const noexcept override { return "unready"; }
  Map map(Io& io) noexcept override {
    io.status = Errc::io;
    return Map::done;
  }
  Result<void> preresume() override { return Error{Errc::io, "not ready"}; }
};

struct UnreadyType {
  UnreadyType() {
    add_target_type({"unready", "1.0.0", [](const TargetArgs&) -> Result<std::unique_ptr<Target>> {
                       return std::unique_ptr<Target>(new Unready);
                     }});
  }
};

void know_unready() {
  static const UnreadyType type;
}

}  // namespace

TEST_CASE("a new table that cannot start backs everything out, and all old ones go on") {
  know_unready();
  Registry registry;
  REQUIRE(registry.create(spec("a", "0 2048 linear mem:1M 0")));
  REQUIRE(registry.create(spec("b", "0 2048 linear dev:a 0")));
  const auto report = registry.apply(
      {spec("a", "0 16 zero"), spec("b", "0 8 unready"), spec("new", "0 8 linear dev:a 8")});
  REQUIRE_FALSE(report);
  CHECK(report.error().message ==
        "device 'b': the new table cannot start: target 'unready' at sector 0: not ready");
  CHECK(live(registry, "a") == "0 2048 linear mem:1M 0\n");
  CHECK(live(registry, "b") == "0 2048 linear dev:a 0\n");
  CHECK_FALSE(registry.find("new"));
  CHECK_FALSE(device_of(registry, "a")->info().inactive_table);
  auto out = filled(512, 1);
  CHECK(write_at(*device_of(registry, "b"), 0, out) == Errc::ok);
  CHECK(device_of(registry, "a")->open_count() == 1);
}

TEST_CASE("check opens and checks everything and changes nothing") {
  Registry registry;
  REQUIRE(registry.create(spec("a", "0 8 zero")));
  const auto good = registry.check({spec("a", "0 16 zero"), spec("b", "0 8 linear dev:a 0")});
  REQUIRE(good);
  CHECK(good.value().created == std::vector<std::string>{"b"});
  CHECK_FALSE(registry.find("b"));
  CHECK(live(registry, "a") == "0 8 zero \n");
  CHECK(device_of(registry, "a")->open_count() == 0);
  CHECK_FALSE(registry.check({spec("b", "0 8 linear /nowhere 0")}));
}

TEST_CASE("apply refuses bad names, names twice, and uuids of others") {
  Registry registry;
  REQUIRE(registry.create({"a", "U-1", "", "0 8 zero", false}));
  CHECK(registry.apply({spec("b", "0 8 zero"), spec("b", "0 8 error")}).code() == Errc::invalid);
  CHECK(registry.apply({spec("x/y", "0 8 zero")}).code() == Errc::invalid);
  CHECK(registry.apply({spec("", "0 8 zero")}).code() == Errc::invalid);
  CHECK(registry.apply({{"b", "U-1", "", "0 8 zero", false}}).code() == Errc::exists);
  CHECK(registry.apply({{"a", "U-2", "", "0 16 zero", false}}).code() == Errc::exists);
  CHECK(registry.list().size() == 1);
}

TEST_CASE("a uuid that cannot be had stops apply before anything is swapped") {
  Registry registry;
  REQUIRE(registry.create({"a", "U-1", "", "0 8 zero", false}));
  REQUIRE(registry.create(spec("b", "0 8 zero")));
  CHECK(registry.apply({{"b", "U-1", "", "0 16 zero", false}}).code() == Errc::exists);
  CHECK(live(registry, "b") == "0 8 zero \n");
  CHECK(registry.apply({{"x", "U-2", "", "0 8 zero", false}, {"y", "U-2", "", "0 8 zero", false}})
            .code() == Errc::exists);
  CHECK_FALSE(registry.find("x"));
  REQUIRE(registry.apply({{"b", "U-3", "now with a uuid", "0 8 zero", false}}));
  CHECK(device_of(registry, "b")->info().uuid == "U-3");
  CHECK(device_of(registry, "b")->info().description == "now with a uuid");
}

TEST_CASE("apply can turn a stack of three over") {
  Registry registry;
  const std::string bottom = "0 2048 linear mem:1M?name=turn 0";
  REQUIRE(registry.apply({spec("a", "0 2048 linear dev:b 0"), spec("b", "0 2048 linear dev:c 0"),
                          spec("c", bottom), spec("keep", bottom)}));
  const std::vector<DeviceSpec> turned{spec("c", "0 2048 linear dev:b 0"),
                                       spec("b", "0 2048 linear dev:a 0"), spec("a", bottom)};
  REQUIRE(registry.apply(turned, {true, 5s, {}}));
  auto out = filled(512, 6);
  auto in = filled(512, 0);
  REQUIRE(write_at(*device_of(registry, "c"), 0, out) == Errc::ok);
  REQUIRE(read_at(*device_of(registry, "keep"), 0, in) == Errc::ok);
  CHECK(in == out);
}

TEST_CASE("a device that waits for its last close and is applied again stays") {
  Registry registry;
  for (const std::string table : {"0 16 zero", "0 8 zero"}) {
    REQUIRE(registry.apply({spec("a", "0 8 zero")}));
    auto handle = registry.open("a");
    REQUIRE(handle);
    REQUIRE(registry.remove("a", {true, false}));
    REQUIRE(device_of(registry, "a")->info().deferred_remove);
    REQUIRE(registry.apply({spec("a", table)}));
    CHECK_FALSE(device_of(registry, "a")->info().deferred_remove);
    *handle = DeviceHandle();  // the last close
    REQUIRE(registry.apply({spec("other", "0 8 zero")}));
    CHECK(registry.find("a"));
    CHECK(live(registry, "a") == table + " \n");
  }
}

TEST_CASE("an apply that fails leaves the removal to the last close") {
  know_unready();
  Registry registry;
  REQUIRE(registry.apply({spec("a", "0 8 zero")}));
  {
    auto handle = registry.open("a");
    REQUIRE(handle);
    REQUIRE(registry.remove("a", {true, false}));
    REQUIRE_FALSE(registry.apply({spec("a", "0 16 unready")}));
    CHECK(device_of(registry, "a")->info().deferred_remove);
  }
  CHECK(eventually([&] { return !registry.find("a"); }));
}
