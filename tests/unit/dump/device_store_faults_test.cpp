// A device store whose disk hangs, fails, or stops with its machine.
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
