#include "server/dump/store.hpp"

#include <cstdlib>
#include <filesystem>
#include <fstream>

#include <doctest/doctest.h>

#include "server/dump/journal.hpp"
#include "server/dump/reception.hpp"

using namespace blockloom;
using namespace blockloom::dump;

namespace {

namespace fs = std::filesystem;

/// A folder that goes with the test.
struct Folder {
  Folder() {
    char name[] = "/tmp/bl-dump-XXXXXX";
    path = ::mkdtemp(name);
  }
  ~Folder() { fs::remove_all(path); }
  std::string path;
};

std::unique_ptr<Store> open_store(const Folder& folder, Quota quota = {},
                                  Retention retention = {}) {
  auto back_end = open_folder(folder.path + "/crash");
  REQUIRE_MESSAGE(back_end, back_end.error().message);
  auto store = std::make_unique<Store>(std::move(*back_end), quota, retention);
  REQUIRE(store->load());
  return store;
}

Record head(const std::string& host) {
  Record record;
  record.id.host = host;
  record.hostname = host;
  return record;
}

/// A whole dump of this text; its id.
DumpId add(Store& store, const std::string& host, std::string_view text,
           State state = State::complete) {
  auto reception = Reception::begin(store, head(host));
  REQUIRE_MESSAGE(reception, reception.error().message);
  const DumpWrite writes[] = {{0, as_bytes(text), 0}};
  REQUIRE((*reception)->write(writes));
  (*reception)->record().image = "vmcore";
  REQUIRE((*reception)->end(state, Reason::none, "", text.size()));
  return (*reception)->record().id;
}

}  // namespace

TEST_CASE("a record reads back as it was written") {
  Record record = head("web1");
  record.id.time = "20260102T030405Z.2";
  record.state = State::holes;
  record.panic = "panic: \"quotes\" and \xff bytes";
  record.holes = {{10, 20}, {100, 4000000000000}};
  record.missing = 3999999999910;
  record.bytes = 1234567890123456789;
  record.pinned = true;
  record.lost_targets = {"/copy: full"};
  auto again = parse_record(record_text(record));
  REQUIRE_MESSAGE(again, again.error().message);
  record.panic = again->panic;  // what was not UTF-8 is U+FFFD now
  CHECK(record_text(*again) == record_text(record));
}

TEST_CASE("a record that is none, or leads elsewhere, is refused") {
  Record record = head("web1");
  record.id.time = "20260102T030405Z";
  record.image = "../../etc/passwd";
  CHECK_FALSE(parse_record(record_text(record)));
  for (const char* bad : {"", "{}", "[]", "{\"id\":\"../x/y\"}", "{\"id\":\"a/20260102T030405Z\"}"})
    CHECK_FALSE(parse_record(bad));
}

TEST_CASE("names of dumps stay inside the store") {
  CHECK(parse_dump_id("web1/20260102T030405Z"));
  for (const char* bad :
       {"", "web1", "/20260102T030405Z", "../20260102T030405Z", "web1/../20260102T03Z",
        "web1/20260102T030405Z/x", ".x/20260102T030405Z", "a b/20260102T030405Z"})
    CHECK_FALSE(parse_dump_id(bad));
  CHECK(safe_host("fe80::1") == "fe80__1");
  CHECK(safe_host("../../x") == "_._.._x");
  CHECK(safe_host("") == "unknown");
  CHECK(safe_host(std::string(100, 'a')).size() == 64);
}

TEST_CASE("dumps are there again after a restart, and a lost record is told") {
  Folder folder;
  DumpId kept, broken;
  {
    auto store = open_store(folder);
    kept = add(*store, "web1", "one");
    broken = add(*store, "web2", "two");
  }
  std::ofstream(folder.path + "/crash/" + broken.text() + "/record.json") << "garbage";
  fs::create_directories(folder.path + "/crash/somebody else's/folder");
  auto store = open_store(folder);
  REQUIRE(store->list().size() == 2);
  CHECK(store->find(kept)->state == State::complete);
  CHECK(store->find(broken)->state == State::incomplete);
  CHECK(store->find(broken)->reason == Reason::store);
}

TEST_CASE("a second server does not get the store") {
  Folder folder;
  auto store = open_store(folder);
  auto second = open_folder(folder.path + "/crash");
  CHECK(second.code() == Errc::busy);
}

TEST_CASE("quotas count what is there, and give back what goes") {
  Folder folder;
  Quota quota;
  quota.host = 100;
  quota.total = 150;
  auto store = open_store(folder, quota);
  const std::string text(90, 'x');
  const DumpId first = add(*store, "web1", text);
  CHECK(store->total_bytes() == 90);
  auto second = Reception::begin(*store, head("web1"));
  REQUIRE(second);
  const DumpWrite writes[] = {{0, as_bytes(text), 0}};
  CHECK((*second)->write(writes).code() == Errc::no_space);
  REQUIRE((*second)->end(State::incomplete, Reason::no_space, "", 0));
  auto third = Reception::begin(*store, head("web3"));
  REQUIRE(third);
  CHECK((*third)->write(writes).code() == Errc::no_space);  // 180 of 150 in all
  REQUIRE((*third)->end(State::incomplete, Reason::no_space, "", 0));
  REQUIRE(store->remove(first));
  CHECK(store->total_bytes() == 0);
  add(*store, "web1", text);
}

TEST_CASE("an offset beyond reason is refused, and costs nothing") {
  Folder folder;
  auto store = open_store(folder);
  auto reception = Reception::begin(*store, head("web1"));
  REQUIRE(reception);
  const DumpWrite bomb[] = {{std::uint64_t{1} << 62, as_bytes("x"), 0}};
  CHECK((*reception)->write(bomb).code() == Errc::out_of_range);
  CHECK(store->total_bytes() == 0);
}

TEST_CASE("where writes of one call overlap the later one wins") {
  Folder folder;
  auto store = open_store(folder);
  auto reception = Reception::begin(*store, head("web1"));
  REQUIRE(reception);
  const DumpWrite writes[] = {
      {0, as_bytes("aaaa"), 0}, {2, as_bytes("bbbb"), 0}, {1, as_bytes("c"), 0}};
  REQUIRE((*reception)->write(writes));
  std::vector<std::byte> read(6);
  REQUIRE((*reception)->read(0, read));
  CHECK(as_text(read) == "acbbbb");
  CHECK((*reception)->record().bytes == 6);
}

TEST_CASE("retention never takes a host's newest complete dump, nor a pinned one") {
  Folder folder;
  Retention retention;
  retention.count = 1;
  auto store = open_store(folder, {}, retention);
  const DumpId pinned = add(*store, "web1", "1");
  REQUIRE(store->pin(pinned, true));
  const DumpId old = add(*store, "web1", "2");
  const DumpId newest = add(*store, "web1", "3");
  const DumpId cut = add(*store, "web1", "4", State::incomplete);
  const DumpId other = add(*store, "web2", "5");
  const auto gone = store->retain();
  CHECK(std::count(gone.begin(), gone.end(), old) == 1);
  CHECK(store->find(pinned));
  CHECK(store->find(newest));
  CHECK(store->find(other));
  CHECK(store->remove(pinned).code() == Errc::busy);
}

TEST_CASE("a dump is named by its id, the beginning of one, or its host") {
  Folder folder;
  auto store = open_store(folder);
  const DumpId first = add(*store, "web1", "1");
  const DumpId last = add(*store, "web1", "2");
  CHECK(store->resolve("web1")->id == last);
  CHECK(store->resolve("web1/latest")->id == last);
  CHECK(store->resolve(first.text())->id == first);
  CHECK(store->resolve("web1/2").code() == Errc::invalid);  // both begin so
  CHECK(store->resolve("web2").code() == Errc::not_found);
}

TEST_CASE("a journal gives the ranges back, but for its torn end") {
  Folder folder;
  auto store = open_store(folder);
  auto reception = Reception::begin(*store, head("web1"));
  REQUIRE(reception);
  const DumpId id = (*reception)->record().id;
  RangeSet here;
  Journal journal(store->back_end(), id);
  REQUIRE(journal.begin(here));
  for (std::uint64_t i = 0; i < 10; ++i) {
    here.insert(i * 100, i * 100 + 50);
    REQUIRE(journal.add({{i * 100, i * 100 + 50}}, here));
  }
  {
    auto again = Journal(store->back_end(), id).read();
    REQUIRE(again);
    CHECK(again->ranges() == here.ranges());
  }
  const std::string path = folder.path + "/crash/" + id.text() + "/ranges";
  fs::resize_file(path, fs::file_size(path) - 5);
  auto torn = Journal(store->back_end(), id).read();
  REQUIRE(torn);
  CHECK(torn->count() == 9);
}
