#include <algorithm>
#include <fstream>
#include <iterator>

#include <doctest/doctest.h>

#include "server/base/log.hpp"
#include "server/device/registry.hpp"
#include "server/device/state_store.hpp"
#include "tests/unit/device/helpers.hpp"

using namespace blockloom;

namespace {

const SavedState sample{
    {{"vol0", "U-1", "a volume", "0 8 linear /a\\ b 0\n", "", false, false},
     {"vol1", "", "", "", "0 8 zero \n", true, true}},
    {{"vol0", "sig\nnature", "vol0"}, {"gone", "s", ""}},
};

std::string slurp(const std::filesystem::path& path) {
  std::ifstream in(path, std::ios::binary);
  return {std::istreambuf_iterator<char>(in), {}};
}

void spill(const std::filesystem::path& path, const std::string& bytes) {
  std::ofstream(path, std::ios::binary) << bytes;
}

SavedState named(const std::string& name) {
  return {{{name, "", "", "0 8 zero \n", "", false, false}}, {}};
}

std::optional<SavedState> loaded(const std::filesystem::path& folder) {
  return StateStore::open(folder).value()->load().value();
}

}  // namespace

TEST_CASE("a state comes back from its bytes as it was") {
  const auto decoded = decode_state(encode_state(sample, 42));
  REQUIRE(decoded);
  CHECK(decoded.value().first == 42);
  CHECK(decoded.value().second == sample);
}

TEST_CASE("a state with any bit flipped, cut anywhere or with a tail is refused") {
  const std::string bytes = encode_state(sample, 42);
  for (std::size_t i = 0; i < bytes.size() * 8; ++i) {
    std::string flipped = bytes;
    flipped[i / 8] = static_cast<char>(flipped[i / 8] ^ (1 << (i % 8)));
    const auto decoded = decode_state(flipped);
    // The generation alone is not under the checksum's text; a flip there must still decode to
    // the same state or fail.
    if (decoded) CHECK(decoded.value().second == sample);
    if (decoded) CHECK(i / 8 < bytes.find('\n'));
  }
  for (std::size_t i = 0; i < bytes.size(); ++i)
    CHECK(decode_state(bytes.substr(0, i)).code() == Errc::corrupt);
  CHECK(decode_state(bytes + "x").code() == Errc::corrupt);
  CHECK(decode_state("").code() == Errc::corrupt);
}

TEST_CASE("the newest saved state is found again, and nothing before the first save") {
  TemporaryFolder folder;
  {
    auto store = StateStore::open(folder.path / "state").value();
    CHECK_FALSE(store->load().value());
    for (int i = 0; i < 5; ++i)
      REQUIRE(store->save(named("v" + std::to_string(i))));
  }
  CHECK(loaded(folder.path / "state") == named("v4"));
}

TEST_CASE("a save that was cut anywhere leaves the state before it") {
  TemporaryFolder folder;
  {
    auto store = StateStore::open(folder.path).value();
    REQUIRE(store->save(named("first")));
    REQUIRE(store->save(named("second")));
  }
  const std::string whole = encode_state(named("third"), 3);
  for (std::size_t cut = 0; cut <= whole.size(); ++cut) {
    spill(folder.path / "devices.new", whole.substr(0, cut));
    CHECK(loaded(folder.path) == named("second"));
  }
  // Renamed over the older of the two, it is the newest.
  std::filesystem::rename(folder.path / "devices.new", folder.path / "devices.0");
  CHECK(loaded(folder.path) == named("third"));
}

TEST_CASE("a damaged file is passed over for the other generation; without one it is an error") {
  TemporaryFolder folder;
  {
    auto store = StateStore::open(folder.path).value();
    REQUIRE(store->save(named("old")));
    REQUIRE(store->save(named("new")));
  }
  std::string newest = slurp(folder.path / "devices.1");
  newest.back() ^= 1;
  spill(folder.path / "devices.1", newest);
  CHECK(loaded(folder.path) == named("old"));
  spill(folder.path / "devices.0", "");
  const auto both = StateStore::open(folder.path).value()->load();
  REQUIRE_FALSE(both);
  CHECK(both.code() == Errc::corrupt);
  // The next save goes on from the whole one.
}

TEST_CASE("saving after a damaged generation replaces the damaged one") {
  TemporaryFolder folder;
  {
    auto store = StateStore::open(folder.path).value();
    REQUIRE(store->save(named("old")));
    REQUIRE(store->save(named("new")));
  }
  spill(folder.path / "devices.1", "rubbish");
  {
    auto store = StateStore::open(folder.path).value();
    REQUIRE(store->load().value() == named("old"));
    REQUIRE(store->save(named("next")));
    CHECK(decode_state(slurp(folder.path / "devices.0")).value().second == named("old"));
  }
  CHECK(loaded(folder.path) == named("next"));
}

TEST_CASE("one server at a time has a state folder") {
  TemporaryFolder folder;
  const auto store = StateStore::open(folder.path);
  REQUIRE(store);
  CHECK(StateStore::open(folder.path).code() == Errc::busy);
  CHECK(StateStore::open(folder.path / "a" / "b").code() == Errc::not_found);
}

// --- Restarts ---------------------------------------------------------------------------------

namespace {

struct Server {
  Registry registry;
  Result<void> started;
  Server(const TemporaryFolder& folder, const std::vector<DeviceSpec>& configured)
      : started(registry.start(StateStore::open(folder.path / "state").value(), configured)) {}
  std::string table(const std::string& name) {
    auto device = registry.find(name);
    return device ? device.value()->table_text(false) : "no device";
  }
};

const DeviceSpec zero8{"vol", "", "", "0 8 zero", false};
const DeviceSpec zero16{"vol", "", "", "0 16 zero", false};

}  // namespace

TEST_CASE("what was made at run time is there after a restart") {
  TemporaryFolder folder;
  {
    Server s(folder, {});
    REQUIRE(s.started);
    REQUIRE(s.registry.create({"low", "U-1", "lowest", "0 64 zero", true}));
    REQUIRE(s.registry.create({"up", "", "", "0 8 linear dev:low 8", true}));
    REQUIRE(s.registry.load("low", "0 128 zero", true));
    REQUIRE(s.registry.create({"empty", "", "", "", false}));
  }
  Server s(folder, {});
  REQUIRE(s.started);
  CHECK(s.table("up") == "0 8 linear dev:low 8\n");
  CHECK(s.table("low") == "0 64 zero \n");
  CHECK(device_of(s.registry, "low")->table_text(true) == "0 128 zero \n");
  CHECK(device_of(s.registry, "low")->info().uuid == "U-1");
  CHECK(device_of(s.registry, "low")->info().description == "lowest");
  CHECK(device_of(s.registry, "low")->read_only());
  CHECK(s.registry.find("empty"));
}

TEST_CASE("a run-time change outlives a restart until the configuration's own text changes") {
  TemporaryFolder folder;
  {
    Server s(folder, {zero8});
    REQUIRE(s.registry.load("vol", "0 8 error", false));
    REQUIRE(s.registry.resume("vol"));
  }
  {
    Server s(folder, {zero8});
    CHECK(s.table("vol") == "0 8 error \n");
  }
  {
    Server s(folder, {zero16});
    CHECK(s.table("vol") == "0 16 zero \n");
  }
}

TEST_CASE("a configured device that was removed or renamed at run time stays so") {
  TemporaryFolder folder;
  {
    Server s(folder, {zero8, {"other", "", "", "0 8 error", false}});
    REQUIRE(s.registry.remove("vol", {}));
    REQUIRE(s.registry.rename("other", "named"));
  }
  {
    Server s(folder, {zero8, {"other", "", "", "0 8 error", false}});
    CHECK(s.table("vol") == "no device");
    CHECK(s.table("other") == "no device");
    CHECK(s.table("named") == "0 8 error \n");
  }
  Server s(folder, {zero16});
  CHECK(s.table("vol") == "0 16 zero \n");
  CHECK(s.table("named") == "no device");
}

TEST_CASE("a device whose leg is missing is kept by name, said, and comes back with its leg") {
  TemporaryFolder folder;
  const std::string file = folder.file("leg", 4096);
  const std::string table = "0 8 linear " + file + " 0\n";
  {
    Server s(folder, {});
    REQUIRE(s.registry.create({"vol", "", "", table, false}));
    REQUIRE(s.registry.create({"good", "", "", "0 8 zero", false}));
  }
  std::filesystem::rename(file, file + ".away");
  for (int i = 0; i < 2; ++i) {
    Server s(folder, {});
    REQUIRE(s.started);
    CHECK(s.table("good") == "0 8 zero \n");
    const auto info = device_of(s.registry, "vol")->info();
    CHECK_FALSE(info.live_table);
    CHECK(info.failure.find(file) != std::string::npos);
    CHECK(s.registry.resume("vol").code() == Errc::not_found);
  }
  std::filesystem::rename(file + ".away", file);
  Server s(folder, {});
  CHECK(s.table("vol") == table);
}

TEST_CASE("a missing leg that came back is taken in by resume") {
  TemporaryFolder folder;
  const std::string file = (folder.path / "later").string();
  Server s(folder, {{"vol", "", "", "0 8 linear " + file + " 0", false}});
  REQUIRE(s.started);
  CHECK_FALSE(s.registry.resume("vol"));
  folder.file("later", 4096);
  REQUIRE(s.registry.resume("vol"));
  CHECK(s.table("vol") == "0 8 linear " + file + " 0\n");
  CHECK(device_of(s.registry, "vol")->info().failure.empty());
}

TEST_CASE("reconfigure applies what changed, removes what is gone, and leaves the rest") {
  TemporaryFolder folder;
  Server s(folder,
           {zero8, {"gone", "", "", "0 8 zero", false}, {"same", "", "", "0 8 zero", false}});
  REQUIRE(s.registry.create({"mine", "", "", "0 8 zero", false}));
  REQUIRE(s.registry.load("same", "0 8 error", false));
  REQUIRE(s.registry.resume("same"));
  const auto report = s.registry.reconfigure(
      {zero16, {"same", "", "", "0 8 zero", false}, {"new", "", "", "0 8 zero", false}});
  REQUIRE(report);
  CHECK(report.value().swapped == std::vector<std::string>{"vol"});
  CHECK(report.value().created == std::vector<std::string>{"new"});
  CHECK(report.value().removed == std::vector<std::string>{"gone"});
  CHECK(report.value().unchanged == std::vector<std::string>{"same"});
  CHECK(s.table("same") == "0 8 error \n");
  CHECK(s.table("mine") == "0 8 zero \n");
  CHECK(s.table("gone") == "no device");
  CHECK_FALSE(s.registry.reconfigure({{"vol", "", "", "0 8 bad", false}}));
  CHECK(s.table("vol") == "0 16 zero \n");
  CHECK(s.table("new") == "0 8 zero \n");
}

namespace {

const std::string vol_stays_removed =
    "vol stays removed: it was removed at run time; change its text in the configuration to bring "
    "it back";

std::vector<std::string>& logged() {
  static std::vector<std::string> lines;
  return lines;
}

/// Collects the log while it lives.
struct CaughtLog {
  CaughtLog() {
    logged().clear();
    set_log_sink([](LogLevel, std::string_view message) { logged().emplace_back(message); });
  }
  ~CaughtLog() { set_log_sink(nullptr); }
  bool has(const std::string& line) const {
    return std::find(logged().begin(), logged().end(), line) != logged().end();
  }
};

}  // namespace

TEST_CASE("reconfigure says that a device removed at run time stays removed") {
  TemporaryFolder folder;
  Server s(folder, {zero8, {"other", "", "", "0 8 zero", false}});
  REQUIRE(s.registry.remove("vol", {}));
  auto report = s.registry.reconfigure({zero8, {"other", "", "", "0 8 zero", false}});
  REQUIRE(report);
  CHECK(report->unchanged == std::vector<std::string>{"other"});
  CHECK(report->notes == std::vector<std::string>{vol_stays_removed});
  auto again = s.registry.reconfigure({zero16, {"other", "", "", "0 8 zero", false}});
  REQUIRE(again);
  CHECK(again->created == std::vector<std::string>{"vol"});
  CHECK(again->notes.empty());
}

TEST_CASE("reconfigure names a device as it is called now, and not one that had gone already") {
  TemporaryFolder folder;
  Server s(folder,
           {zero8, {"other", "", "", "0 8 zero", false}, {"third", "", "", "0 8 zero", false}});
  REQUIRE(s.registry.rename("vol", "named"));
  REQUIRE(s.registry.remove("third", {}));
  auto report =
      s.registry.reconfigure({zero8, {"other", "", "", "0 8 zero", false}});  // without third
  REQUIRE(report);
  CHECK(report->unchanged == std::vector<std::string>{"named", "other"});
  CHECK(report->removed.empty());
  CHECK(report->notes.empty());
  report = s.registry.reconfigure({});
  REQUIRE(report);
  CHECK(report->removed == std::vector<std::string>{"other", "named"});
  CHECK(s.table("named") == "no device");
}

TEST_CASE("a device that goes with its last close is not unchanged, nor removed twice") {
  TemporaryFolder folder;
  Server s(folder, {zero8});
  auto handle = s.registry.open("vol");
  REQUIRE(handle);
  REQUIRE(s.registry.remove("vol", {true, false}));
  auto report = s.registry.reconfigure({zero8});
  REQUIRE(report);
  CHECK(report->unchanged.empty());
  CHECK(report->notes == std::vector<std::string>{vol_stays_removed});
  auto gone = s.registry.reconfigure({});
  REQUIRE(gone);
  CHECK(gone->removed.empty());
}

TEST_CASE("a start says that a configured device stays removed") {
  TemporaryFolder folder;
  {
    const CaughtLog log;
    Server s(folder, {zero8});
    CHECK_FALSE(log.has(vol_stays_removed));
    REQUIRE(s.registry.remove("vol", {}));
  }
  const CaughtLog log;
  Server s(folder, {zero8});
  CHECK(s.table("vol") == "no device");
  CHECK(log.has(vol_stays_removed));
}

TEST_CASE("what is wrong with a device begins with its place, at start and at reload") {
  TemporaryFolder folder;
  const DeviceSpec bad{"bad", "", "", "0 8 zero\n8 8 nonesuch", false, "b.toml:3:9"};
  const DeviceSpec loop{"self", "", "", "0 8 linear dev:self 0", false, "b.toml:7:9"};
  for (int i = 0; i < 2; ++i) {  // from the configuration, and from the saved state with it
    Server s(folder, {bad});
    REQUIRE(s.started);
    const std::string why = device_of(s.registry, "bad")->info().failure;
    CHECK_MESSAGE(why.starts_with("b.toml:3:9: device 'bad': line 2: "), why);
    const auto refused = s.registry.reconfigure({bad, loop});
    REQUIRE_FALSE(refused);
    CHECK_MESSAGE(refused.error().message.starts_with("b.toml:7:9: device 'self'"),
                  refused.error().message);
  }
  const auto checked = Registry().check({bad});
  CHECK(checked.error().message.starts_with("b.toml:3:9: device 'bad': line 2: "));
}

TEST_CASE("a change that cannot be saved says so") {
  TemporaryFolder folder;
  Server s(folder, {});
  std::filesystem::remove_all(folder.path / "state");
  const auto r = s.registry.create({"vol", "", "", "0 8 zero", false});
  REQUIRE_FALSE(r);
  CHECK(r.error().message.find("but a restart would not know of it") != std::string::npos);
}
