#include <thread>

#include <doctest/doctest.h>
#include <fmt/format.h>

#include "server/device/registry.hpp"
#include "server/device/stack_graph.hpp"
#include "tests/unit/device/helpers.hpp"

using namespace blockloom;
using namespace std::chrono_literals;

namespace {

DeviceSpec over(const std::string& name, const std::string& leg) {
  return {name, "", "", "0 8 linear " + leg + " 0", false};
}

}  // namespace

TEST_CASE("loops of any length are refused, over live and inactive tables") {
  Registry registry;
  REQUIRE(registry.create({"d0", "", "", "0 8 zero", false}));
  for (int i = 1; i < 6; ++i)
    REQUIRE(registry.create(over(fmt::format("d{}", i), fmt::format("dev:d{}", i - 1))));
  for (int i = 0; i < 6; ++i) {
    const auto r = registry.load("d0", fmt::format("0 8 linear dev:d{} 0", i), false);
    CAPTURE(i);
    REQUIRE_FALSE(r);
    CHECK(r.code() == Errc::loop);
  }
  // Through an inactive table, and through a wrapper.
  REQUIRE(registry.create({"x", "", "", "0 8 zero", false}));
  REQUIRE(registry.load("x", "0 8 linear fault:[]:dev:d5 0", false));
  CHECK(registry.load("d0", "0 8 linear dev:x 0", false).code() == Errc::loop);
  REQUIRE(registry.clear("x"));
  CHECK(registry.load("d0", "0 8 linear dev:x 0", false));
}

TEST_CASE("a stack higher than the bound is refused") {
  Registry registry;
  REQUIRE(registry.create({"d0", "", "", "0 8 zero", false}));
  Result<void> r;
  int height = 0;
  while (r && height < 100) {
    r = registry.create(over(fmt::format("d{}", height + 1), fmt::format("dev:d{}", height)));
    if (r) ++height;
  }
  CHECK(height == StackGraph::deepest);
  CHECK(r.code() == Errc::limit);
}

TEST_CASE("a device with another one above it is open, and says by whom") {
  Registry registry;
  REQUIRE(registry.create({"low", "", "", "0 8 zero", false}));
  REQUIRE(registry.create(over("up", "dev:low")));
  CHECK(device_of(registry, "low")->open_count() == 1);
  const auto busy = registry.remove("low", {});
  REQUIRE_FALSE(busy);
  CHECK(busy.error().message ==
        "device 'low' is open 1 time (by device 'up'): close it, or remove it with --deferred or "
        "--force");
  REQUIRE(registry.remove("up", {}));
  CHECK(device_of(registry, "low")->open_count() == 0);
  CHECK(registry.remove("low", {}));
}

TEST_CASE("a renamed lower device keeps its place in the tables above") {
  Registry registry;
  REQUIRE(registry.create({"low", "", "", "0 8 zero", false}));
  REQUIRE(registry.create(over("up", "dev:low")));
  REQUIRE(registry.rename("low", "base"));
  CHECK(device_of(registry, "up")->table_text(false) == "0 8 linear dev:base 0\n");
  CHECK(registry.load("base", "0 8 linear dev:up 0", false).code() == Errc::loop);
}

TEST_CASE("requests wait at a suspended lower device, and go on with it") {
  Registry registry;
  REQUIRE(registry.create({"low", "", "", "0 2048 linear mem:1M 0", false}));
  REQUIRE(registry.create(over("up", "dev:low")));
  REQUIRE(registry.suspend("low", {}));
  auto data = filled(512, 8);
  Waiter write(*device_of(registry, "up"), Op::write, Bytes(0), Bytes(512), data.data());
  write.submit();
  CHECK_FALSE(write.ended);
  REQUIRE(registry.load("low", "0 2048 linear mem:1M 0", false));
  REQUIRE(registry.resume("low"));
  CHECK(write.wait() == Errc::ok);
  auto in = filled(512, 0);
  CHECK(read_at(*device_of(registry, "low"), 0, in) == Errc::ok);
  CHECK(in == data);
}

TEST_CASE("a suspension over a suspended lower device gives up, and asks for that") {
  Registry registry;
  REQUIRE(registry.create({"low", "", "", "0 2048 linear mem:1M 0", false}));
  REQUIRE(registry.create(over("up", "dev:low")));
  REQUIRE(registry.suspend("low", {}));
  SuspendOptions options;
  options.timeout = 50ms;
  const auto late = registry.suspend("up", options);
  REQUIRE_FALSE(late);
  CHECK(late.code() == Errc::timed_out);
  CHECK(late.error().message ==
        "device 'up' cannot be suspended: its flush is still out on leg 'dev:low' (1 request; is "
        "device 'low' suspended?)");
  CHECK_FALSE(registry.find("up").value()->info().suspended);
  REQUIRE(registry.resume("low"));
  CHECK(registry.suspend("up", {}));
}

TEST_CASE("a lower device that shrank answers with an error, not with another's bytes") {
  Registry registry;
  REQUIRE(registry.create({"low", "", "", "0 2048 linear mem:1M 0", false}));
  REQUIRE(registry.create({"up", "", "", "0 2048 linear dev:low 0", false}));
  REQUIRE(registry.load("low", "0 8 linear mem:1M 0", false));
  REQUIRE(registry.resume("low"));
  auto data = filled(512, 0);
  CHECK(read_at(*device_of(registry, "up"), 512 * 1024, data) == Errc::out_of_range);
  CHECK(read_at(*device_of(registry, "up"), 0, data) == Errc::ok);
}

TEST_CASE("a table over a read-only device must be read-only too") {
  Registry registry;
  REQUIRE(registry.create({"low", "", "", "0 8 zero", true}));
  CHECK(registry.create(over("up", "dev:low")).code() == Errc::read_only);
  auto spec = over("up", "dev:low");
  spec.read_only = true;
  CHECK(registry.create(spec));
}

TEST_CASE("force removes a lower device under an upper one, whose requests then fail") {
  Registry registry;
  REQUIRE(registry.create({"low", "", "", "0 8 zero", false}));
  REQUIRE(registry.create(over("up", "dev:low")));
  REQUIRE(registry.remove("low", {false, true}));
  auto data = filled(512, 0);
  CHECK(read_at(*device_of(registry, "up"), 0, data) == Errc::removed);
  CHECK(registry.remove("up", {}));
}

TEST_CASE("a table over thousands of devices is built, and its loops are still found") {
#ifdef __SANITIZE_THREAD__
  // One apply holds the lock of each device, and the detector of deadlocks counts 64 at most.
  constexpr int devices = 40;
#else
  constexpr int devices = 2000;
#endif
  Registry registry;
  std::vector<DeviceSpec> specs;
  std::string table;
  for (int i = 0; i < devices; ++i) {
    specs.push_back({fmt::format("d{}", i), "", "", "0 8 zero", false});
    table += fmt::format("{} 8 linear dev:d{} 0\n", 8 * i, i);
  }
  specs.push_back({"wide", "", "", table, false});
  REQUIRE(registry.apply(specs));
  CHECK(registry.load(specs[devices - 1].name, "0 8 linear dev:wide 0", false).code() ==
        Errc::loop);
}
