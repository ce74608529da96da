#include <atomic>

#include <doctest/doctest.h>

#include "tests/unit/iscsi/initiator.hpp"

using namespace blockloom;

namespace {

const Octets ready{0, 0, 0, 0, 0, 0};
const Octets inquiry{0x12, 0, 0, 0, 96, 0};
const Octets request_sense{3, 0, 0, 0, 252, 0};
const Octets block_erase{0x48, 0x02, 0, 0, 0, 0, 0, 0, 0, 0};
const Octets exit_failure{0x48, 0x1f, 0, 0, 0, 0, 0, 0, 0, 0};

UnitOptions sanitizable() {
  UnitOptions options;
  options.sanitize = true;
  return options;
}

/// The CDB; `flags` is IMMED and AUSE.
Octets overwrite(std::size_t length, std::uint8_t flags = 0) {
  return {0x48,
          static_cast<std::uint8_t>(0x01 | flags),
          0,
          0,
          0,
          0,
          0,
          static_cast<std::uint8_t>(length >> 8),
          static_cast<std::uint8_t>(length),
          0};
}

Octets pattern_list(std::uint8_t how, Octets pattern) {
  return Octets{how, 0, static_cast<std::uint8_t>(pattern.size() >> 8),
                static_cast<std::uint8_t>(pattern.size())} +
         pattern;
}

Octets first_block(Initiator& from) {
  return from.read({0x28, 0, 0, 0, 0, 0, 0, 0, 1, 0}, 512).data;
}
Octets last_block(Initiator& from) {
  return from.read({0x28, 0, 0, 0, 7, 0xff, 0, 0, 1, 0}, 512).data;
}

}  // namespace

TEST_CASE("SANITIZE is not there unless the unit is said to write in place") {
  Bench bench;
  Initiator a(bench.target, bench.executor);
  a.settle();
  for (std::uint8_t action = 0; action < 0x20; ++action)
    CHECK(a.run({0x48, action, 0, 0, 0, 0, 0, 0, 0, 0}).code() == "05/2000");
}

TEST_CASE("OVERWRITE leaves the pattern in every block, BLOCK ERASE zeroes and holes") {
  Bench bench(sanitizable());
  Initiator a(bench.target, bench.executor);
  a.settle();
  REQUIRE(a.run({0x2a, 0, 0, 0, 0, 0, 0, 0, 1, 0}, blocks_of(512, 9)).good());
  const Octets list = pattern_list(2, {1, 2, 3});  // two passes
  CHECK(a.run(overwrite(list.size()), list).good());
  Octets wanted;
  for (int i = 0; i < 512; ++i)
    wanted.push_back(static_cast<std::uint8_t>(1 + i % 3));
  CHECK(first_block(a) == wanted);
  CHECK(last_block(a) == wanted);
  const Octets twice = pattern_list(0x82, blocks_of(512, 0x0f));  // the second pass inverts
  CHECK(a.run(overwrite(twice.size()), twice).good());
  CHECK(first_block(a) == blocks_of(512, 0xf0));
  CHECK(a.run(block_erase).good());
  CHECK(last_block(a) == blocks_of(512, 0));
  Octets status{0x9e, 0x12, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 24, 0, 0};
  const Octets holes = a.read(status, 24).data;
  REQUIRE(holes.size() == 24);
  CHECK(holes[20] == 1);  // deallocated
}

TEST_CASE("what is malformed is refused before anything is written") {
  Bench bench(sanitizable());
  Initiator a(bench.target, bench.executor);
  a.settle();
  REQUIRE(a.run({0x2a, 0, 0, 0, 0, 0, 0, 0, 1, 0}, blocks_of(512, 9)).good());
  for (std::size_t length : {0, 1, 4, 517})
    CHECK(a.run(overwrite(length), Octets(length, 1)).code() == "05/2400");
  for (const Octets& list :
       {pattern_list(0, {1}), pattern_list(1, {}) + Octets{1}, Octets{1, 0, 0, 9, 1}})
    CHECK(a.run(overwrite(list.size()), list).code() == "05/2400");
  for (std::size_t at : {2, 3, 4, 5, 6}) {
    Octets reserved = block_erase;
    reserved[at] = 1;
    CHECK(a.run(reserved).code() == "05/2400");
  }
  Octets longer = block_erase;
  longer[8] = 8;
  CHECK(a.run(longer, Octets(8)).code() == "05/2400");
  CHECK(a.run({0x48, 0x42, 0, 0, 0, 0, 0, 0, 0, 0}).code() == "05/2400");
  CHECK(a.run({0x48, 0x05, 0, 0, 0, 0, 0, 0, 0, 0}).code() == "05/2400");
  CHECK(first_block(a) == blocks_of(512, 9));
  UnitOptions fat = sanitizable();
  fat.thin = false;
  Bench full(fat);
  Initiator b(full.target, full.executor);
  b.settle();
  CHECK(b.run(block_erase).code() == "05/2400");
}

TEST_CASE("meanwhile the unit is not ready, and it goes on after abort, reset and loss") {
  Bench bench(sanitizable(), "fault:[write=hang]:mem:1M");
  Initiator a(bench.target, bench.executor, "a"), b(bench.target, bench.executor, "b");
  a.settle();
  b.settle();
  auto waiting = a.start(block_erase);
  CHECK(waiting->step == TaskStep::running);
  CHECK(b.run(ready).code() == "02/041b");
  CHECK(b.read({0x28, 0, 0, 0, 0, 0, 0, 0, 1, 0}, 512).code() == "02/041b");
  CHECK(b.run(block_erase).code() == "02/041b");
  CHECK(b.read(inquiry, 96).good());
  const Octets sense = b.read(request_sense, 252).data;
  REQUIRE(sense.size() >= 18);
  CHECK((sense[2] == 2 && sense[12] == 4 && sense[13] == 0x1b && sense[15] == 0x80));
  CHECK(a.manage(TaskFunction::abort_task, &waiting->task) == TaskResponse::complete);
  CHECK(a.finish(*waiting).aborted);
  CHECK(a.manage(TaskFunction::logical_unit_reset) == TaskResponse::complete);
  a.lose();
  b.run(request_sense, {}, 252);  // the reset's unit attention
  CHECK(b.run(ready).code() == "02/041b");
  REQUIRE(
      bench.registry.message("disk", Sectors(0), std::vector<std::string>{"leg", "0", "clear"}));
  while (b.run(ready).code() == "02/041b")
    std::this_thread::yield();
  CHECK(b.run(ready).good());
  CHECK(first_block(b) == blocks_of(512, 0));
}

TEST_CASE("one that failed says so until another succeeds, or it is left, if that was allowed") {
  Bench bench(sanitizable(), "fault:[write=error]:mem:1M");
  Initiator a(bench.target, bench.executor);
  a.settle();
  CHECK(a.run(block_erase).code() == "03/3103");
  CHECK(a.run(ready).code() == "03/3103");
  CHECK(a.run(exit_failure).code() == "05/2400");
  const Octets list = pattern_list(1, {5});
  CHECK(a.run(overwrite(list.size(), 0x20), list).code() == "03/3103");
  CHECK(a.run(exit_failure).good());
  CHECK(a.run(ready).good());
  CHECK(a.run(exit_failure).good());
  CHECK(a.run(block_erase).code() == "03/3103");
  REQUIRE(
      bench.registry.message("disk", Sectors(0), std::vector<std::string>{"leg", "0", "clear"}));
  CHECK(a.run(overwrite(list.size(), 0x80), list).good());  // IMMED
  while (a.run(ready).code() == "02/041b")
    std::this_thread::yield();
  CHECK(first_block(a) == blocks_of(512, 5));
}

TEST_CASE("a unit that is write protected or reserved is not sanitized") {
  Bench bench(sanitizable());
  Initiator a(bench.target, bench.executor, "a"), b(bench.target, bench.executor, "b");
  a.settle();
  b.settle();
  REQUIRE(a.run({0x16, 0, 0, 0, 0, 0}).good());
  CHECK(b.run(block_erase).status == scsi::Status::reservation_conflict);
  UnitOptions options = sanitizable();
  options.read_only = true;
  Bench guarded(options);
  Initiator c(guarded.target, guarded.executor);
  c.settle();
  CHECK(c.run(block_erase).code() == "07/2700");
}
