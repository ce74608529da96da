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
#include "tests/unit/dump/device_store_rig.hpp"
#include "tests/unit/dump/disk_leg.hpp"

using namespace blockloom;
using namespace blockloom::dump;
using namespace blockloom::dump::store_rig;
using blockloom::test::DiskLeg;

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
