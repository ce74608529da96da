#include "server/device/device.hpp"

#include <atomic>
#include <future>
#include <thread>

#include <doctest/doctest.h>

#include "server/device/registry.hpp"
#include "tests/unit/device/helpers.hpp"

using namespace blockloom;
using namespace std::chrono_literals;

namespace {

DeviceSpec memory(const std::string& name, const std::string& leg = "mem:1M") {
  return {name, "", "", "0 2048 linear " + leg + " 0", false};
}

SuspendOptions within(Duration timeout) {
  return {true, timeout, {}};
}

/// Waits for another thread's doing, far longer than it can take.
}  // namespace

TEST_CASE("requests that are unaligned, empty or beyond the end are refused, and nothing else") {
  Registry registry;
  REQUIRE(registry.create(memory("v")));
  const auto device = device_of(registry, "v");
  auto run = [&](Op op, std::uint64_t offset, std::uint64_t length) {
    auto data = filled(4096, 0);
    return Waiter(*device, op, Bytes(offset), Bytes(length), data.data()).run();
  };
  CHECK(run(Op::read, 1, 512) == Errc::invalid);
  CHECK(run(Op::write, 0, 511) == Errc::invalid);
  CHECK(run(Op::read, 0, 0) == Errc::invalid);
  CHECK(run(Op::read, 1 << 20, 512) == Errc::out_of_range);
  CHECK(run(Op::trim, (1 << 20) - 512, 1024) == Errc::out_of_range);
  CHECK(run(Op::read, UINT64_MAX - 511, 1024) == Errc::out_of_range);
  CHECK(run(Op::write, (1 << 20) - 512, 512) == Errc::ok);
}

TEST_CASE("a read-only device refuses every change, and serves reads") {
  Registry registry;
  auto spec = memory("v");
  spec.read_only = true;
  REQUIRE(registry.create(spec));
  const auto device = device_of(registry, "v");
  auto data = filled(512, 0);
  CHECK(device->read_only());
  CHECK(write_at(*device, 0, data) == Errc::read_only);
  CHECK(Waiter(*device, Op::trim, Bytes(0), Bytes(512)).run() == Errc::read_only);
  CHECK(Waiter(*device, Op::zero, Bytes(0), Bytes(512)).run() == Errc::read_only);
  CHECK(read_at(*device, 0, data) == Errc::ok);
  CHECK(Waiter(*device, Op::flush, Bytes(0), Bytes(0)).run() == Errc::ok);
}

TEST_CASE("a device without a table answers with an error") {
  Registry registry;
  REQUIRE(registry.create({"empty", "", "", "", false}));
  auto data = filled(512, 0);
  CHECK(read_at(*device_of(registry, "empty"), 0, data) == Errc::io);
}

TEST_CASE("a suspended device queues, and goes on in order when it is resumed") {
  Registry registry;
  REQUIRE(registry.create(memory("v")));
  const auto device = device_of(registry, "v");
  REQUIRE(registry.suspend("v", {}));
  std::vector<int> order;
  struct Tracked {
    Request request;
    std::vector<int>* order;
    int number;
  };
  Tracked tracked[5];
  for (int i = 0; i < 5; ++i) {
    tracked[i].order = &order;
    tracked[i].number = i;
    Request& r = tracked[i].request;
    r.op = Op::flush;
    r.owner = &tracked[i];
    r.retry = [](Request& q) noexcept {
      auto* t = static_cast<Tracked*>(q.owner);
      t->order->push_back(t->number);
    };
    CHECK(device->submit(r) == Submit::pending);
  }
  CHECK(device->info().queued == 5);
  REQUIRE(registry.resume("v"));
  CHECK(order == std::vector{0, 1, 2, 3, 4});
  for (auto& t : tracked) {
    CHECK(device->submit(t.request) == Submit::done);
    CHECK(t.request.status == Errc::ok);
  }
}

TEST_CASE("the queue is bounded in requests and in time") {
  DeviceLimits limits;
  limits.queue_requests = 2;
  limits.queue_timeout = 20ms;
  Registry registry(limits);
  REQUIRE(registry.create(memory("v")));
  const auto device = device_of(registry, "v");
  REQUIRE(registry.suspend("v", {}));
  auto data = filled(512, 0);
  Waiter first(*device, Op::read, Bytes(0), Bytes(512), data.data());
  Waiter second(*device, Op::flush, Bytes(0), Bytes(0));
  Waiter third(*device, Op::flush, Bytes(0), Bytes(0));
  first.submit();
  second.submit();
  third.submit();
  CHECK(third.ended);
  CHECK(third.request.status == Errc::limit);
  CHECK(first.wait() == Errc::timed_out);
  CHECK(second.wait() == Errc::timed_out);
  CHECK(device->info().queued == 0);
  REQUIRE(registry.resume("v"));
  CHECK(read_at(*device, 0, data) == Errc::ok);
}

TEST_CASE("a lease ends a suspension that nobody resumes, and leaves the inactive table waiting") {
  Registry registry;
  REQUIRE(registry.create(memory("v")));
  REQUIRE(registry.load("v", "0 4096 linear mem:2M 0", false));
  const auto device = device_of(registry, "v");
  REQUIRE(registry.suspend("v", {true, {}, 20ms}));
  auto data = filled(512, 0);
  CHECK(read_at(*device, 0, data) == Errc::ok);
  CHECK_FALSE(device->info().suspended);
  CHECK(device->info().inactive_table);
  CHECK(device->size() == Bytes(1 << 20));
  CHECK(eventually([&] {
    const auto events = registry.events().since(0);
    return !events.empty() && events.back().kind == "lease_expired";
  }));
}

TEST_CASE("a suspend whose deadline passes names the late leg, and the device goes on") {
  Registry registry;
  REQUIRE(registry.create(memory("v", "fault:[read=hang]:mem:1M")));
  const auto device = device_of(registry, "v");
  auto data = filled(512, 0);
  Waiter hung(*device, Op::read, Bytes(0), Bytes(512), data.data());
  hung.submit();
  const auto failed = registry.suspend("v", within(30ms));
  REQUIRE_FALSE(failed);
  CHECK(failed.code() == Errc::timed_out);
  CHECK(failed.error().message.find("leg 'fault:[read=hang]:mem:1M' (1 request)") !=
        std::string::npos);
  CHECK_FALSE(device->info().suspended);
  auto out = filled(512, 1);
  CHECK(write_at(*device, 512, out) == Errc::ok);
  // The leg's message lets the hung request go, beside a suspend that waits for it.
  auto suspended = std::async(std::launch::async, [&] { return registry.suspend("v", {}); });
  const std::vector<std::string> words{"leg", "0", "clear"};
  CHECK(eventually([&] { return registry.message("v", Sectors(0), words).code() == Errc::ok; }));
  CHECK(suspended.get());
  CHECK(hung.wait() == Errc::ok);
}

TEST_CASE("suspend waits for what is in flight, and flushes it") {
  Registry registry;
  REQUIRE(registry.create(memory("v", "fault:[write=delay:30ms]:mem:1M")));
  const auto device = device_of(registry, "v");
  auto data = filled(512, 4);
  Waiter write(*device, Op::write, Bytes(0), Bytes(512), data.data());
  write.submit();
  REQUIRE(registry.suspend("v", {}));
  // Ended, and not by resume: its completion is at most on its way.
  CHECK(write.wait() == Errc::ok);
  // One flush before the gate closed, which the write was too late for, and one after it ended.
  CHECK(device->leg_infos()[0].totals.others == 2);
  REQUIRE(registry.resume("v"));
}

TEST_CASE("noflush suspends without a flush") {
  Registry registry;
  REQUIRE(registry.create(memory("v")));
  REQUIRE(registry.suspend("v", {false, {}, {}}));
  CHECK(device_of(registry, "v")->leg_infos()[0].totals.others == 0);
  REQUIRE(registry.resume("v"));
}

TEST_CASE("a flush that fails undoes the suspend") {
  Registry registry;
  REQUIRE(registry.create(memory("v", "fault:[flush=error]:mem:1M")));
  const auto device = device_of(registry, "v");
  const auto failed = registry.suspend("v", {});
  REQUIRE_FALSE(failed);
  CHECK(failed.error().message == "device 'v' cannot be suspended: flush failed: io");
  auto data = filled(512, 0);
  CHECK(read_at(*device, 0, data) == Errc::ok);
}

TEST_CASE("a flush that hangs is bounded by the deadline, and never outlives its table") {
  Registry registry;
  REQUIRE(registry.create(memory("v", "fault:[flush=hang]:mem:1M")));
  const auto failed = registry.suspend("v", within(20ms));
  REQUIRE_FALSE(failed);
  CHECK(failed.code() == Errc::timed_out);
  CHECK(failed.error().message.find("fault:[flush=hang]") != std::string::npos);
  CHECK(registry.remove("v", {false, true}));
}

TEST_CASE("a table swapped under a suspend serves its own bytes, and the old one's stay") {
  Registry registry;
  REQUIRE(registry.create(memory("v", "mem:1M?name=a")));
  REQUIRE(registry.create(memory("keep", "mem:1M?name=a")));
  const auto device = device_of(registry, "v");
  auto ones = filled(512, 1);
  REQUIRE(write_at(*device, 0, ones) == Errc::ok);
  REQUIRE(registry.load("v", "0 4096 linear mem:2M?name=b 0", false));
  auto in = filled(512, 9);
  REQUIRE(read_at(*device, 0, in) == Errc::ok);
  CHECK(in == ones);
  const auto report = registry.resume("v");
  REQUIRE(report);
  CHECK(report.value().swapped);
  CHECK(device->size() == Bytes(2 << 20));
  REQUIRE(read_at(*device, 0, in) == Errc::ok);
  CHECK(in == filled(512, 0));
  REQUIRE(read_at(*device_of(registry, "keep"), 0, in) == Errc::ok);
  CHECK(in == ones);
}

TEST_CASE("clear takes the inactive table back, and a bad load leaves it alone") {
  Registry registry;
  REQUIRE(registry.create(memory("v")));
  REQUIRE(registry.load("v", "0 8 zero", false));
  CHECK_FALSE(registry.load("v", "0 8 nonesuch", false));
  CHECK(device_of(registry, "v")->table_text(true) == "0 8 zero \n");
  REQUIRE(registry.clear("v"));
  CHECK_FALSE(device_of(registry, "v")->info().inactive_table);
  const auto report = registry.resume("v");
  REQUIRE(report);
  CHECK_FALSE(report.value().swapped);
  CHECK(device_of(registry, "v")->size() == Bytes(1 << 20));
}

TEST_CASE("a write-back error that suspend's own flush was told is told to the next client") {
  Registry registry;
  REQUIRE(registry.create(memory("v", "fault:[flush=error,x1]:mem:1M")));
  const auto device = device_of(registry, "v");
  CHECK_FALSE(registry.suspend("v", {}));
  CHECK(Waiter(*device, Op::flush, Bytes(0), Bytes(0)).run() == Errc::io);
  CHECK(Waiter(*device, Op::flush, Bytes(0), Bytes(0)).run() == Errc::ok);
}

TEST_CASE("a delay device is suspended at once, whatever its delay") {
  Registry registry;
  REQUIRE(registry.create({"d", "", "", "0 2048 delay mem:1M 0 3600000", false}));
  const auto device = device_of(registry, "d");
  auto data = filled(512, 1);
  Waiter write(*device, Op::write, Bytes(0), Bytes(512), data.data());
  write.submit();
  REQUIRE(registry.load("d", "0 2048 linear mem:1M 0", false));
  CHECK(registry.resume("d"));
  CHECK(write.wait() == Errc::ok);
}

TEST_CASE("a file that shrank does not keep its own device suspended") {
  TemporaryFolder folder;
  Registry registry;
  const std::string file = folder.file("leg", 1 << 20);
  REQUIRE(registry.create(memory("v", file)));
  REQUIRE(registry.suspend("v", {}));
  std::filesystem::resize_file(file, 4096);
  CHECK(registry.resume("v"));
  auto data = filled(512, 1);
  CHECK(read_at(*device_of(registry, "v"), 0, data) == Errc::ok);
  CHECK(read_at(*device_of(registry, "v"), 8192, data) == Errc::io);
}

// --- Hooks ------------------------------------------------------------------------------------

namespace {

std::vector<std::string> hooks;
bool preresume_fails = false;

class HookTarget final : public Target {
 public:
  explicit HookTarget(std::string name) : name_(std::move(name)) {}
  ~HookTarget() override { note("destroy"); }
  std::string_view type() const noexcept override { return "hook"; }
  std::string table() const override { return name_; }
  Map map(Io& io) noexcept override {
    io.status = Errc::ok;
    return Map::done;
  }
  void presuspend() noexcept override { note("presuspend"); }
  void presuspend_undo() noexcept override { note("presuspend_undo"); }
  void postsuspend() noexcept override { note("postsuspend"); }
  Result<void> preresume() override {
    note("preresume");
    if (preresume_fails && name_ == "new") return Error{Errc::io, "the store cannot be read"};
    return {};
  }
  void resume() noexcept override { note("resume"); }

 private:
  void note(const char* hook) const { hooks.push_back(name_ + " " + hook); }
  const std::string name_;
};

Result<std::unique_ptr<Target>> create_hook(const TargetArgs& args) {
  return std::unique_ptr<Target>(new HookTarget(args.words[0]));
}

struct HookType {
  HookType() { add_target_type({"hook", "1.0.0", create_hook}); }
};

void with_hook_tables(Registry& registry) {
  static const HookType type;
  preresume_fails = false;
  REQUIRE(registry.create({"h", "", "", "0 8 hook old", false}));
  REQUIRE(registry.load("h", "0 8 hook new", false));
  hooks.clear();
}

}  // namespace

TEST_CASE("a swap runs the hooks in device-mapper's order, and destroys the old table last") {
  Registry registry;
  with_hook_tables(registry);
  REQUIRE(registry.resume("h"));
  CHECK(hooks == std::vector<std::string>{"old presuspend", "old postsuspend", "new preresume",
                                          "new resume", "old destroy"});
}

TEST_CASE("when preresume fails the old table goes on, and the new one stays inactive") {
  Registry registry;
  with_hook_tables(registry);
  preresume_fails = true;
  const auto failed = registry.resume("h");
  REQUIRE_FALSE(failed);
  CHECK(failed.error().message ==
        "device 'h': the new table cannot start: target 'hook' at sector 0: the store cannot be "
        "read");
  CHECK(hooks == std::vector<std::string>{"old presuspend", "old postsuspend", "new preresume",
                                          "old preresume", "old resume"});
  const auto device = device_of(registry, "h");
  CHECK_FALSE(device->info().suspended);
  CHECK(device->table_text(false) == "0 8 hook old\n");
  CHECK(device->table_text(true) == "0 8 hook new\n");
  preresume_fails = false;
  CHECK(registry.resume("h"));
  CHECK(device->table_text(false) == "0 8 hook new\n");
}

TEST_CASE("suspend and resume without a swap run the live table's hooks") {
  Registry registry;
  with_hook_tables(registry);
  REQUIRE(registry.clear("h"));
  hooks.clear();
  REQUIRE(registry.suspend("h", {}));
  REQUIRE(registry.resume("h"));
  CHECK(hooks == std::vector<std::string>{"old presuspend", "old postsuspend", "old preresume",
                                          "old resume"});
}

TEST_CASE("a suspend that is undone says so to the targets") {
  Registry registry;
  with_hook_tables(registry);
  REQUIRE(registry.load("h", "0 8 hook old2\n8 8 linear fault:[flush=pass,x1;flush=error]:mem:1M 0",
                        false));
  REQUIRE(registry.resume("h"));
  hooks.clear();
  CHECK_FALSE(registry.suspend("h", {}));
  CHECK(hooks == std::vector<std::string>{"old2 presuspend", "old2 presuspend_undo"});
}

TEST_CASE("a file that shrank between load and resume keeps the new table out") {
  TemporaryFolder folder;
  Registry registry;
  REQUIRE(registry.create(memory("v")));
  const std::string file = folder.file("leg", 1 << 20);
  REQUIRE(registry.load("v", "0 2048 linear " + file + " 0", false));
  std::filesystem::resize_file(file, 4096);
  const auto failed = registry.resume("v");
  REQUIRE_FALSE(failed);
  CHECK(failed.error().message.find(file) != std::string::npos);
  CHECK(device_of(registry, "v")->table_text(false) == "0 2048 linear mem:1M 0\n");
}
