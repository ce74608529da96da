#include "server/dump/device_store.hpp"

#include <map>
#include <random>

#include <doctest/doctest.h>
#include <fmt/format.h>
#include <unistd.h>

#include "server/dump/device_back_end.hpp"
#include "server/dump/device_target.hpp"
#include "server/dump/reception.hpp"
#include "server/dump/this_process.hpp"
#include "server/dump/writer.hpp"
#include "tests/unit/dump/disk_leg.hpp"

using namespace blockloom;
using namespace blockloom::dump;
using blockloom::test::DiskLeg;

namespace {

constexpr std::size_t disk_size = 8 << 20;

/// A server that is not there any more.
StoreOwner gone() {
  StoreOwner owner;
  owner.server[0] = std::byte{1};
  owner.boot = boot_number();
  owner.pid = ~0u;
  owner.in_use = true;
  return owner;
}

std::unique_ptr<DeviceStore> over(std::shared_ptr<Leg> leg,
                                  Duration patience = std::chrono::seconds(20)) {
  auto io = DeviceIo::create(std::move(leg), patience);
  REQUIRE(io);
  return std::make_unique<DeviceStore>(std::move(*io));
}

std::unique_ptr<DeviceStore> opened(std::shared_ptr<Leg> leg) {
  auto store = over(std::move(leg));
  const auto open = store->open(gone());
  REQUIRE_MESSAGE(open, open.error().message);
  return store;
}

std::string pattern(std::size_t size, unsigned seed) {
  std::mt19937 random(seed);
  std::string bytes(size, ' ');
  for (char& c : bytes)
    c = static_cast<char>(random());
  return bytes;
}

DumpId id(int n) {
  return {"host", fmt::format("20260102T0304{:02}Z", n)};
}

/// A whole dump, as the common code makes one: the image and its record.
void add_dump(DeviceStore& store, const DumpId& name, const std::string& image) {
  REQUIRE(store.add(name));
  REQUIRE(store.put_file(name, "record.json", "receiving"));
  DumpWriter writer;
  writer.add(make_device_target(store, name, false));
  REQUIRE(writer.configure({}));
  for (std::size_t at = 0; at < image.size(); at += 100'000) {
    const std::string_view piece = std::string_view(image).substr(at, 100'000);
    const DumpWrite write{at, as_bytes(piece), 0};
    const auto done = writer.write({&write, 1});
    REQUIRE_MESSAGE(done, done.error().message);
  }
  REQUIRE(writer.finish(image.size()));
  REQUIRE(store.put_file(name, "record.json", "complete"));
}

std::string image_of(DeviceStore& store, const DumpId& name) {
  const auto dump = store.find(name);
  REQUIRE(dump);
  std::string bytes(dump->length + 10, ' ');
  const auto got =
      read_runs(store.io(), dump->image, dump->length, 0, std::as_writable_bytes(std::span(bytes)));
  REQUIRE(got);
  bytes.resize(got.value());
  return bytes;
}

std::string file_of(DeviceStore& store, const DumpId& name, std::string_view file) {
  const auto found = store.find_file(name, file);
  if (!found) return "(none)";
  auto bytes = store.read_file(*found, 0, 1 << 20);
  REQUIRE(bytes);
  return std::move(*bytes);
}

/// Everything that is in a store, to compare.
std::map<std::string, std::string> contents(DeviceStore& store) {
  std::map<std::string, std::string> all;
  for (const DumpId& name : store.list()) {
    const auto dump = store.find(name);
    if (dump->finished) all[name.text()] = image_of(store, name);
    for (const auto& [file, stored] : dump->files)
      all[name.text() + "/" + file] = file_of(store, name, file);
  }
  return all;
}

}  // namespace

TEST_CASE("a device of zeros becomes a store; one that holds something else does not") {
  auto disk = std::make_shared<DiskLeg>(disk_size);
  opened(disk);
  CHECK(opened(disk)->list().empty());
  std::string other(disk_size, '\0');
  other[disk_size - 512] = 'x';
  auto used = std::make_shared<DiskLeg>(other);
  auto store = over(used);
  CHECK(store->open(gone()).code() == Errc::corrupt);
  CHECK(used->count() == 0);
  CHECK(store->format(gone()));
  CHECK(store->open(gone()));
  CHECK(over(std::make_shared<DiskLeg>(std::size_t{512 << 10}))->open(gone()).code() ==
        Errc::invalid);
}

TEST_CASE("dumps and files are found again after a restart") {
  auto disk = std::make_shared<DiskLeg>(disk_size);
  const std::string image = pattern(700'001, 1), text = pattern(90'000, 2);
  {
    auto store = opened(disk);
    add_dump(*store, id(1), image);
    REQUIRE(store->put_file(id(1), "dmesg.txt", text));
    REQUIRE(store->name_image(id(1), "vmcore"));
    CHECK(store->add(id(1)).code() == Errc::exists);
    REQUIRE(store->write_file({}, "host", 0, "last words", true));
    REQUIRE(store->write_file({}, "host", 10, " and more", true));
  }
  auto store = opened(disk);
  CHECK(store->list() == std::vector<DumpId>{id(1)});
  CHECK(image_of(*store, id(1)) == image);
  CHECK(file_of(*store, id(1), "dmesg.txt") == text);
  CHECK(file_of(*store, id(1), "record.json") == "complete");
  CHECK(file_of(*store, {}, "host") == "last words and more");
  CHECK(store->find(id(1))->image_name == "vmcore");
  REQUIRE(store->erase_file(id(1), "dmesg.txt"));
  CHECK(file_of(*store, id(1), "dmesg.txt") == "(none)");
  REQUIRE(store->remove(id(1)));
  CHECK(store->list().empty());
  CHECK(store->remove(id(1)).code() == Errc::not_found);
}

TEST_CASE("a file that is written in place ends in zeros, and keeps what it had inside") {
  auto disk = std::make_shared<DiskLeg>(pattern(disk_size, 9));
  auto store = over(disk);
  REQUIRE(store->format(gone()));
  REQUIRE(store->open(gone()));
  REQUIRE(store->add(id(1)));
  REQUIRE(store->put_file(id(1), "ranges", "begin"));
  REQUIRE(store->write_file(id(1), "ranges", 5, "more", false));
  std::string expected = "beginmore";
  expected.resize(64 << 10);
  CHECK(file_of(*store, id(1), "ranges") == expected);
  const std::string far = pattern(20'000, 3);
  REQUIRE(store->write_file(id(1), "ranges", 60'000, far, false));
  expected.resize(128 << 10);
  expected.replace(60'000, far.size(), far);
  CHECK(file_of(*store, id(1), "ranges") == expected);
}

TEST_CASE("what no write reached reads as zeros, never as an older dump") {
  auto disk = std::make_shared<DiskLeg>(pattern(disk_size, 10));
  auto store = over(disk);
  REQUIRE(store->format(gone()));
  REQUIRE(store->open(gone()));
  REQUIRE(store->add(id(1)));
  DumpWriter writer;
  writer.add(make_device_target(*store, id(1), false));
  REQUIRE(writer.configure({}));
  std::string expected(1'500'000, '\0');
  const auto put = [&](std::size_t at, const std::string& bytes) {
    const DumpWrite write{at, as_bytes(bytes), 0};
    const auto done = writer.write({&write, 1});
    REQUIRE_MESSAGE(done, done.error().message);
    expected.replace(at, bytes.size(), bytes);
  };
  put(10'000, "one");
  put(900'000, pattern(5000, 4));
  put(9'999, "x");
  put(500'000, pattern(12'345, 5));
  REQUIRE(writer.finish(expected.size()));
  CHECK(image_of(*store, id(1)) == expected);
}

TEST_CASE("a dump goes on where an earlier server's knowledge ends") {
  auto disk = std::make_shared<DiskLeg>(disk_size);
  const std::string image = pattern(900'000, 6);
  {
    auto store = opened(disk);
    REQUIRE(store->add(id(1)));
    REQUIRE(store->put_file(id(1), "record.json", "receiving"));
    DumpWriter writer;
    writer.add(make_device_target(*store, id(1), false));
    REQUIRE(writer.configure({}));
    const DumpWrite write{0, as_bytes(image).first(333'333), 0};
    REQUIRE(writer.write({&write, 1}));
  }
  auto store = opened(disk);
  DumpWriter writer;
  writer.add(make_device_target(*store, id(1), true));
  DumpPlan plan;
  plan.here = 333'333;
  REQUIRE(writer.configure(plan));
  const DumpWrite write{333'333, as_bytes(image).subspan(333'333), 0};
  REQUIRE(writer.write({&write, 1}));
  REQUIRE(writer.finish(image.size()));
  CHECK(image_of(*store, id(1)) == image);
}

TEST_CASE("a full store refuses, keeps room for records, and has room after a removal") {
  auto disk = std::make_shared<DiskLeg>(disk_size);
  auto store = opened(disk);
  add_dump(*store, id(1), pattern(3'000'000, 1));
  add_dump(*store, id(2), pattern(3'000'000, 2));
  REQUIRE(store->add(id(3)));
  const auto grown = store->grow_image(id(3), 3'000'000);
  CHECK(grown.code() == Errc::no_space);
  CHECK(store->put_file(id(3), "dmesg.txt", pattern(50'000, 3)));
  CHECK(store->put_file(id(3), "record.json", "incomplete"));
  for (int round = 0; round < 5; ++round) {
    REQUIRE(store->remove(id(1)));
    add_dump(*store, id(1), pattern(3'000'000, 1));
  }
  CHECK(image_of(*store, id(1)) == pattern(3'000'000, 1));
  CHECK(image_of(*store, id(2)) == pattern(3'000'000, 2));
}

TEST_CASE("a second server refuses a store that is in use, and one that lost it stops") {
  auto disk = std::make_shared<DiskLeg>(disk_size);
  StoreOwner alive = gone();
  alive.server[0] = std::byte{2};
  alive.pid = static_cast<std::uint32_t>(::getpid());
  alive.since = process_start(alive.pid);
  auto first = over(disk);
  REQUIRE(first->open(alive));
  StoreOwner other = gone();
  other.server[0] = std::byte{3};
  auto second = over(disk);
  CHECK(second->open(other).code() == Errc::busy);
  CHECK(second->format(other).code() == Errc::busy);
  // A server on another machine cannot know that the first one lives.
  other.boot = alive.boot + 1;
  REQUIRE(second->open(other));
  REQUIRE(second->add(id(1)));
  CHECK(first->add(id(2)));
  CHECK(first->put_file(id(2), "record.json", "x").code() == Errc::busy);
  CHECK(first->add(id(3)).code() == Errc::busy);
  REQUIRE(second->put_file(id(1), "record.json", "x"));
  second->close();
  auto third = over(disk);
  CHECK(third->open(alive));
  CHECK(third->list() == std::vector<DumpId>{id(1)});
}

TEST_CASE("a disk that hangs is given up after the deadline, and taken again when it answers") {
  auto disk = std::make_shared<DiskLeg>(disk_size);
  auto store = over(disk, std::chrono::milliseconds(50));
  REQUIRE(store->open(gone()));
  add_dump(*store, id(1), pattern(10'000, 1));
  disk->hang(true);
  CHECK(store->put_file(id(1), "record.json", "late").code() == Errc::timed_out);
  REQUIRE(store->add(id(2)));
  DumpWriter writer(std::chrono::milliseconds(200));
  writer.add(make_device_target(*store, id(2), false));
  CHECK_FALSE(writer.configure({}));
  disk->hang(false);
  while (store->io().late())
    store->io().signal()->wait(store->io().signal()->seen(),
                               Clock::now() + std::chrono::milliseconds(5));
  CHECK(store->put_file(id(1), "record.json", "again"));
  CHECK(file_of(*opened(disk), id(1), "record.json") == "again");
}

TEST_CASE("a disk that fails leaves the store as it was") {
  auto disk = std::make_shared<DiskLeg>(disk_size);
  auto store = opened(disk);
  add_dump(*store, id(1), pattern(10'000, 1));
  disk->fail = Errc::io;
  CHECK(store->put_file(id(1), "record.json", "lost").code() == Errc::io);
  CHECK(file_of(*opened(std::make_shared<DiskLeg>(disk->bytes())), id(1), "record.json") ==
        "complete");
  disk->fail = Errc::ok;
  CHECK(store->put_file(id(1), "record.json", "kept"));
}

// The history: what was promised when so many writes had reached the disk. Stopped anywhere, a
// store holds the last thing promised, or what was under way.
TEST_CASE("a machine that stops at any write leaves a whole store") {
  auto disk = std::make_shared<DiskLeg>(disk_size);
  struct Promise {
    std::size_t writes = 0;
    std::map<std::string, std::string> contents;
  };
  std::vector<Promise> promises;
  {
    auto store = opened(disk);
    const auto promise = [&] { promises.push_back({disk->count(), contents(*store)}); };
    promise();
    const auto step = [&](const Result<void>& done) {
      REQUIRE_MESSAGE(done, done.error().message);
      promise();
    };
    for (int n = 1; n <= 3; ++n) {
      const std::string image = pattern(200'000 * static_cast<unsigned>(n) + 1, 40u + n);
      REQUIRE(store->add(id(n)));
      step(store->put_file(id(n), "record.json", "receiving"));
      DumpWriter writer;
      writer.add(make_device_target(*store, id(n), false));
      REQUIRE(writer.configure({}));
      const DumpWrite write{0, as_bytes(image), 0};
      REQUIRE(writer.write({&write, 1}));
      REQUIRE(writer.sync());
      step(store->put_file(id(n), "stream.state", fmt::format("position {}", image.size())));
      step(writer.finish(image.size()));
      step(store->put_file(id(n), "dmesg.txt", pattern(30'000, 50u + n)));
      step(store->put_file(id(n), "record.json", "complete"));
      step(store->erase_file(id(n), "stream.state"));
      if (n > 1) step(store->remove(id(n - 1)));
    }
  }
  const auto changes = disk->changes();
  std::mt19937 random(7);
  for (std::size_t stop = promises[0].writes; stop <= changes.size(); ++stop) {
    // With the caches of the disk lost: of what was not flushed any part may be there.
    for (const bool caches_lost : {false, true}) {
      std::string bytes(disk_size, '\0');
      std::size_t flushed = 0;
      for (std::size_t i = 0; i < stop; ++i)
        if (changes[i].flush) flushed = i;
      for (std::size_t i = 0; i < stop; ++i) {
        const auto& change = changes[i];
        if (change.flush) continue;
        if (!caches_lost || i < flushed) {
          bytes.replace(change.offset, change.bytes.size(), change.bytes);
          continue;
        }
        for (std::size_t at = 0; at < change.bytes.size(); at += 512)
          if (random() % 2 == 0) bytes.replace(change.offset + at, 512, change.bytes, at, 512);
      }
      auto store = over(std::make_shared<DiskLeg>(bytes));
      const auto open = store->open(gone());
      REQUIRE_MESSAGE(open, open.error().message);
      const auto found = contents(*store);
      std::size_t last = 0;
      while (last + 1 < promises.size() && promises[last + 1].writes <= stop)
        ++last;
      // finish() commits its cut before its promise, as a step of its own: images that are over
      // may be one step ahead.
      const bool as_promised = found == promises[last].contents;
      const bool ahead = last + 1 < promises.size() && found == promises[last + 1].contents;
      CHECK_MESSAGE((as_promised || ahead), "stopped after write " << stop);
    }
  }
}

TEST_CASE("the common code keeps dumps on a device as it does in a folder") {
  auto disk = std::make_shared<DiskLeg>(disk_size);
  const std::string image = pattern(123'457, 11);
  DumpId name;
  {
    auto back_end = make_device_back_end(disk, std::chrono::seconds(20));
    REQUIRE(back_end);
    REQUIRE((*back_end)->open());
    Store store(std::move(*back_end), {}, {});
    REQUIRE(store.load());
    Record head;
    head.id.host = "web1";
    auto reception = Reception::begin(store, head);
    REQUIRE(reception);
    const DumpWrite write{0, as_bytes(image), 0};
    REQUIRE((*reception)->write({&write, 1}));
    REQUIRE((*reception)->put_dmesg("[1.0] Kernel panic - not syncing: sysrq\n"));
    (*reception)->record().image = "vmcore";
    REQUIRE((*reception)->end(State::complete, Reason::none, "", image.size()));
    name = (*reception)->record().id;
    store.back_end().close();
  }
  auto back_end = make_device_back_end(disk, std::chrono::seconds(20));
  REQUIRE((*back_end)->open());
  Store store(std::move(*back_end), {}, {});
  REQUIRE(store.load());
  const auto record = store.find(name);
  REQUIRE(record);
  CHECK(record->state == State::complete);
  CHECK(record->panic.find("Kernel panic") != std::string::npos);
  auto reader = store.back_end().open_image(name, record->image);
  REQUIRE(reader);
  std::string bytes(image.size() + 100, ' ');
  auto got = (*reader)->read(0, std::as_writable_bytes(std::span(bytes)));
  REQUIRE(got);
  CHECK(bytes.substr(0, *got) == image);
  auto runs = store.back_end().runs(name, "vmcore", record->bytes);
  REQUIRE(runs);
  CHECK(runs->front().uri == "disk");
  REQUIRE(store.remove(name));
  CHECK(store.back_end().space().value().free == store.back_end().space().value().total);
}
