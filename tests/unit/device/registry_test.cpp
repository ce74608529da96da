#include "server/device/registry.hpp"

#include <thread>

#include <doctest/doctest.h>

#include "tests/unit/device/helpers.hpp"

using namespace blockloom;
using namespace std::chrono_literals;

namespace {

std::vector<std::string> kinds(Registry& registry, const std::string& device) {
  std::vector<std::string> all;
  for (const Event& e : registry.events().since(0))
    if (e.device == device) all.push_back(e.kind);
  return all;
}

const std::string memory_table = "0 2048 linear mem:1M 0";

}  // namespace

TEST_CASE("a device serves what was written to it") {
  Registry registry;
  REQUIRE(registry.create({"vol0", "", "", memory_table, false}));
  const auto device = device_of(registry, "vol0");
  CHECK(device->size() == Bytes(1 << 20));
  auto out = filled(4096, 7);
  auto in = filled(4096, 0);
  CHECK(write_at(*device, 8192, out) == Errc::ok);
  CHECK(read_at(*device, 8192, in) == Errc::ok);
  CHECK(in == out);
}

TEST_CASE("names and uuids are checked, unique, and the uuid is set once") {
  Registry registry;
  for (const char* bad : {"", "a/b", "a b", "-a", ".a", "a\n", "\xff"})
    CHECK(registry.create({bad, "", "", "", false}).code() == Errc::invalid);
  CHECK(registry.create({std::string(128, 'n'), "", "", "", false}).code() == Errc::invalid);
  REQUIRE(registry.create({std::string(127, 'n'), "", "", "", false}));
  REQUIRE(registry.create({"a", "", "", "", false}));
  CHECK(registry.create({"a", "", "", "", false}).code() == Errc::exists);
  CHECK(registry.create({"a", "", "", memory_table, false}).code() == Errc::exists);
  REQUIRE(registry.set_uuid("a", "LVM-1"));
  CHECK(registry.set_uuid("a", "LVM-2").code() == Errc::exists);
  CHECK(registry.create({"b", "LVM-1", "", "", false}).code() == Errc::exists);
  REQUIRE(registry.create({"b", "", "", "", false}));
  CHECK(registry.set_uuid("b", "LVM-1").code() == Errc::exists);
  CHECK(registry.set_uuid("b", "with blank").code() == Errc::invalid);
  CHECK(registry.find_uuid("LVM-1").value()->name() == "a");
  CHECK(registry.find_uuid("").code() == Errc::not_found);
}

TEST_CASE("a table that is not UTF-8 is refused with the way to write it") {
  Registry registry;
  REQUIRE(registry.create({"a", "", "", "", false}));
  const auto r = registry.load("a", "0 8 linear /caf\xe9 0", false);
  REQUIRE_FALSE(r);
  CHECK(r.error().message.find("%XX") != std::string::npos);
}

TEST_CASE("rename keeps the device, its handles and its events") {
  Registry registry;
  REQUIRE(registry.create({"a", "", "", memory_table, false}));
  auto handle = registry.open("a");
  REQUIRE(registry.rename("a", "b"));
  CHECK(registry.find("a").code() == Errc::not_found);
  CHECK(handle.value()->name() == "b");
  CHECK(registry.rename("a", "c").code() == Errc::not_found);
  CHECK(registry.rename("b", "b").code() == Errc::exists);
  CHECK(registry.rename("b", "x/y").code() == Errc::invalid);
  CHECK(kinds(registry, "b").back() == "renamed");
}

TEST_CASE("open counts, busy removal, and deferred removal at the last close") {
  Registry registry;
  REQUIRE(registry.create({"a", "", "", memory_table, false}));
  auto first = registry.open("a");
  {
    auto second = registry.open("a");
    CHECK(device_of(registry, "a")->open_count() == 2);
  }
  CHECK(device_of(registry, "a")->open_count() == 1);
  CHECK(registry.remove("a", {}).code() == Errc::busy);
  REQUIRE(registry.remove("a", {true, false}));
  CHECK(registry.find("a"));
  CHECK(device_of(registry, "a")->info().deferred_remove);
  *first = DeviceHandle();
  CHECK(eventually([&] { return !registry.find("a"); }));
}

TEST_CASE("force removes an open, suspended device, and fails what waits") {
  Registry registry;
  REQUIRE(registry.create({"a", "", "", memory_table, false}));
  auto handle = registry.open("a");
  REQUIRE(registry.suspend("a", {}));
  auto data = filled(512, 0);
  Waiter waiting(**handle, Op::read, Bytes(0), Bytes(512), data.data());
  waiting.submit();
  CHECK(registry.remove("a", {}).code() == Errc::busy);
  REQUIRE(registry.remove("a", {false, true}));
  CHECK(waiting.wait() == Errc::removed);
  CHECK(read_at(**handle, 0, data) == Errc::removed);
  CHECK(registry.find("a").code() == Errc::not_found);
  CHECK(registry.create({"a", "", "", memory_table, false}));
}

TEST_CASE("force removes a device whose leg hangs, and the hung request ends") {
  Registry registry;
  REQUIRE(registry.create({"a", "", "", "0 8 linear fault:[any=hang]:mem:1M 0", false}));
  auto handle = registry.open("a");
  auto data = filled(512, 0);
  Waiter hung(**handle, Op::read, Bytes(0), Bytes(512), data.data());
  hung.submit();
  REQUIRE(registry.remove("a", {false, true}));
  CHECK(hung.wait() == Errc::removed);
}

TEST_CASE("every change is an event, in order, with the device's own number") {
  Registry registry;
  std::vector<std::string> heard;
  const auto id =
      registry.events().listen([&](const Event& event) { heard.push_back(event.kind); });
  REQUIRE(registry.create({"a", "", "", "", false}));
  REQUIRE(registry.load("a", memory_table, false));
  REQUIRE(registry.resume("a"));
  REQUIRE(registry.suspend("a", {}));
  REQUIRE(registry.resume("a"));
  REQUIRE(registry.load("a", memory_table, false));
  REQUIRE(registry.clear("a"));
  REQUIRE(registry.remove("a", {}));
  const std::vector<std::string> expected{"created", "loaded", "swapped", "resized", "suspended",
                                          "resumed", "loaded", "cleared", "removed"};
  CHECK(kinds(registry, "a") == expected);
  CHECK(heard == expected);
  registry.events().unlisten(id);
  const auto events = registry.events().since(0);
  for (std::size_t i = 0; i < events.size(); ++i) {
    CHECK(events[i].sequence == i + 1);
    CHECK(events[i].device_event == i + 1);
  }
  CHECK(registry.events().since(events.back().sequence).empty());
}

TEST_CASE("the events kept are bounded") {
  Events events;
  for (std::size_t i = 0; i < Events::kept + 10; ++i)
    events.publish({});
  CHECK(events.since(0).size() == Events::kept);
  CHECK(events.since(0).front().sequence == 11);
}

TEST_CASE("shutting down ends what waits and what hangs, and refuses the rest") {
  Registry registry;
  REQUIRE(registry.create({"hung", "", "", "0 8 linear fault:[any=hang]:mem:1M 0", false}));
  REQUIRE(registry.create({"asleep", "", "", memory_table, false}));
  REQUIRE(registry.suspend("asleep", {}));
  auto data = filled(512, 0);
  Waiter hung(*device_of(registry, "hung"), Op::read, Bytes(0), Bytes(512), data.data());
  Waiter queued(*device_of(registry, "asleep"), Op::read, Bytes(0), Bytes(512), data.data());
  hung.submit();
  queued.submit();
  registry.shut_down();
  CHECK(hung.wait() == Errc::shutdown);
  CHECK(queued.wait() == Errc::shutdown);
  CHECK(read_at(*device_of(registry, "asleep"), 0, data) == Errc::shutdown);
  CHECK(registry.create({"b", "", "", "", false}).code() == Errc::shutdown);
  registry.shut_down();
}
