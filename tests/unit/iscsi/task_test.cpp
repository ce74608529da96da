#include <doctest/doctest.h>

#include "tests/unit/iscsi/initiator.hpp"

using namespace blockloom;

namespace {

const Octets read_1{0x28, 0, 0, 0, 0, 0, 0, 0, 1, 0};
const Octets write_1{0x2a, 0, 0, 0, 0, 0, 0, 0, 1, 0};
const Octets ready{0, 0, 0, 0, 0, 0};

/// A device whose reads hang until go().
struct Hanging : Bench {
  Initiator a{target, executor, "a"}, b{target, executor, "b"};
  Hanging() : Bench({}, "fault:[read=hang]:mem:1M") {
    a.settle();
    b.settle();
  }
  void go() {
    REQUIRE(registry.message("disk", Sectors(0), std::vector<std::string>{"leg", "0", "clear"}));
  }
};

}  // namespace

TEST_CASE("ABORT TASK answers when the task has ended, and the task is not answered") {
  Hanging bench;
  auto hung = bench.a.start(read_1, {}, 512);
  CHECK(hung->step == TaskStep::running);
  Initiator::Managing abort(bench.a, TaskFunction::abort_task, &hung->task);
  bench.executor.drain();
  CHECK_FALSE(abort.done);
  bench.go();
  abort.wait();
  CHECK(abort.management.response == TaskResponse::complete);
  CHECK(hung->ended());
  CHECK(hung->answer().aborted);
  CHECK(hung->answer().data.empty());
  // A moment late: it has ended already.
  CHECK(bench.a.manage(TaskFunction::abort_task, &hung->task) == TaskResponse::complete);
  CHECK(bench.a.manage(TaskFunction::abort_task) == TaskResponse::no_task);
}

TEST_CASE("a task that waits for its data is told to stop, and the function waits for that") {
  Bench bench;
  Initiator a(bench.target, bench.executor);
  a.settle();
  auto waiting = a.start(write_1, blocks_of(512, 1));
  CHECK(waiting->step == TaskStep::wants_data);
  Initiator::Managing abort(a, TaskFunction::abort_task, &waiting->task);
  CHECK_FALSE(abort.done);
  abort.wait();
  CHECK(waiting->stopped);
  CHECK(waiting->task.stop_told);
  CHECK(waiting->answer().aborted);
  // One whose last data came at the same moment ends by proceed().
  auto crossing = a.start(write_1, blocks_of(512, 1));
  const auto stop = crossing->task.stop;
  crossing->task.stop = [](ScsiTask&) noexcept {};
  Initiator::Managing again(a, TaskFunction::abort_task_set);
  CHECK_FALSE(again.done);
  crossing->send_data();
  CHECK(crossing->ended());
  CHECK(crossing->answer().aborted);
  again.wait();
  crossing->task.stop = stop;
  CHECK(a.read(read_1, 512).data == blocks_of(512, 0));
}

TEST_CASE("a task of a suspended device is aborted without waiting for the resume") {
  Bench bench;
  Initiator a(bench.target, bench.executor);
  a.settle();
  REQUIRE(bench.registry.suspend("disk", {}));
  auto queued = a.start(read_1, {}, 512);
  CHECK(a.manage(TaskFunction::abort_task, &queued->task) == TaskResponse::complete);
  CHECK(queued->answer().aborted);
  CHECK(bench.device().info().queued == 0);
  REQUIRE(bench.registry.resume("disk"));
}

TEST_CASE("ABORT TASK SET takes one's own tasks, CLEAR TASK SET everybody's and tells them") {
  Hanging bench;
  auto mine = bench.a.start(read_1, {}, 512);
  auto other = bench.b.start(read_1, {}, 512);
  Initiator::Managing abort(bench.a, TaskFunction::abort_task_set);
  Initiator::Managing clear(bench.a, TaskFunction::clear_task_set);
  auto later = bench.b.start({0x25, 0, 0, 0, 0, 0, 0, 0, 0, 0}, {}, 8);
  CHECK(later->answer().code() == "06/2f00");
  bench.go();
  abort.wait();
  clear.wait();
  CHECK(mine->answer().aborted);
  CHECK(other->answer().aborted);
  CHECK(bench.b.run(ready).good());
  CHECK(bench.a.run(ready).good());
}

TEST_CASE("a LUN reset ends every task of the unit, and everyone hears of it") {
  Hanging bench;
  auto mine = bench.a.start(read_1, {}, 512);
  auto other = bench.b.start(read_1, {}, 512);
  Initiator::Managing first(bench.a, TaskFunction::logical_unit_reset);
  Initiator::Managing second(bench.b, TaskFunction::logical_unit_reset);
  bench.executor.drain();
  CHECK_FALSE(first.done);
  CHECK_FALSE(second.done);
  bench.go();
  first.wait();
  second.wait();
  CHECK(mine->answer().aborted);
  CHECK(other->answer().aborted);
  CHECK(bench.a.run(ready).code() == "06/2903");
  CHECK(bench.a.run(ready).good());
  CHECK(bench.b.run(ready).code() == "06/2903");
}

TEST_CASE("target resets reach every unit of the target") {
  Bench bench;
  bench.add_device("second");
  bench.target->set_luns(
      {{0, bench.target->luns()[0].unit}, {1, bench.unit(std::string("second"))}});
  Initiator a(bench.target, bench.executor);
  for (const auto function : {TaskFunction::target_warm_reset, TaskFunction::target_cold_reset}) {
    a.settle(0);
    a.settle(1);
    CHECK(a.manage(function) == TaskResponse::complete);
    CHECK(a.run(ready, {}, 0, 0).code() == "06/2903");
    CHECK(a.run(ready, {}, 0, 1).code() == "06/2903");
  }
}

TEST_CASE("functions for a LUN that is not there, or that nobody has, say so") {
  Bench bench;
  Initiator a(bench.target, bench.executor);
  CHECK(a.manage(TaskFunction::logical_unit_reset, nullptr, 9) == TaskResponse::no_lun);
  CHECK(a.manage(TaskFunction::clear_aca) == TaskResponse::not_supported);
  CHECK(a.manage(static_cast<TaskFunction>(0)) == TaskResponse::not_supported);
  CHECK(a.manage(static_cast<TaskFunction>(8)) == TaskResponse::not_supported);
}

TEST_CASE("a lost nexus ends its tasks first, and gives nothing more to its session") {
  Hanging bench;
  auto hung = bench.a.start(read_1, {}, 512);
  auto waiting = bench.a.start(write_1, blocks_of(512, 1));
  Initiator::Managing loss(bench.a, TaskFunction::nexus_loss);
  bench.executor.drain();
  CHECK(waiting->stopped);
  CHECK_FALSE(loss.done);
  auto late = bench.a.start(read_1, {}, 512);
  CHECK(late->answer().code() == "05/2500");
  bench.go();
  loss.wait();
  CHECK(hung->answer().aborted);
  CHECK(bench.b.read(read_1, 512).good());
}

TEST_CASE("an ORDERED task waits for those before it, and those after it wait for it") {
  Hanging bench;
  auto first = bench.a.start(read_1, {}, 512);
  bench.a.attribute = TaskAttribute::ordered;
  auto ordered = bench.a.start(write_1, blocks_of(512, 7));
  CHECK(ordered->step == TaskStep::wants_data);
  ordered->send_data();
  bench.a.attribute = TaskAttribute::simple;
  auto after = bench.b.start(read_1, {}, 512);
  auto write_after = bench.b.start(write_1, blocks_of(512, 8));
  write_after->send_data();
  bench.b.attribute = TaskAttribute::head_of_queue;
  CHECK(bench.b.run(ready).good());
  bench.executor.drain();
  CHECK_FALSE(ordered->ended());
  CHECK_FALSE(after->ended());
  CHECK_FALSE(write_after->ended());
  bench.go();
  CHECK(bench.a.finish(*first).data == blocks_of(512, 0));
  CHECK(bench.a.finish(*ordered).good());
  CHECK(bench.b.finish(*after).good());
  CHECK(bench.b.finish(*write_after).good());
  CHECK(bench.a.read(read_1, 512).data == blocks_of(512, 8));
}

TEST_CASE("a task that waits for its turn can be aborted") {
  Hanging bench;
  auto first = bench.a.start(read_1, {}, 512);
  bench.a.attribute = TaskAttribute::ordered;
  auto ordered = bench.a.start(read_1, {}, 512);
  CHECK(bench.a.manage(TaskFunction::abort_task, &ordered->task) == TaskResponse::complete);
  CHECK(ordered->answer().aborted);
  CHECK_FALSE(first->ended());
  bench.go();
  CHECK(bench.a.finish(*first).good());
}

TEST_CASE("more tasks than the unit takes answer TASK SET FULL") {
  LogicalUnits::Options limits;
  limits.tasks_per_unit = 2;
  Bench bench({}, "fault:[read=hang]:mem:1M", limits);
  Initiator a(bench.target, bench.executor);
  a.settle();
  auto first = a.start(read_1, {}, 512), second = a.start(read_1, {}, 512);
  CHECK(a.read(read_1, 512).status == scsi::Status::task_set_full);
  REQUIRE(
      bench.registry.message("disk", Sectors(0), std::vector<std::string>{"leg", "0", "clear"}));
  CHECK(a.finish(*first).good());
  CHECK(a.finish(*second).good());
}

TEST_CASE("a login brings 29/00, once for each LUN; INQUIRY and REPORT LUNS do not take it") {
  Bench bench;
  Initiator a(bench.target, bench.executor);
  CHECK(a.read({0x12, 0, 0, 0, 96, 0}, 96).good());
  CHECK(a.read({0xa0, 0, 0, 0, 0, 0, 0, 0, 1, 0, 0, 0}, 256).good());
  auto write = a.start(write_1, blocks_of(512, 1));
  CHECK(write->step == TaskStep::ended);
  CHECK(write->answer().code() == "06/2900");
  CHECK(a.run(write_1, blocks_of(512, 1)).good());
}

TEST_CASE("a table swap that changes the size is 2A/09, to everyone, and is sent at once") {
  Bench bench;
  Initiator a(bench.target, bench.executor, "a"), b(bench.target, bench.executor, "b");
  a.settle();
  b.settle();
  REQUIRE(bench.registry.load("disk", "0 4096 linear mem:2M 0", false));
  REQUIRE(bench.registry.resume("disk"));
  CHECK(a.run(ready).code() == "06/2a09");
  CHECK(a.run(ready).good());
  CHECK(a.heard() == std::vector<std::string>{"0: 2a09"});
  CHECK(b.heard() == a.heard());
  CHECK(b.read(read_1, 512).code() == "06/2a09");
  CHECK(a.read({0x25, 0, 0, 0, 0, 0, 0, 0, 0, 0}, 8).data == Octets{0, 0, 0x0f, 0xff, 0, 0, 2, 0});
  // The same size again is no news.
  REQUIRE(bench.registry.load("disk", "0 4096 linear mem:2M 0", false));
  REQUIRE(bench.registry.resume("disk"));
  CHECK(a.run(ready).good());
}

TEST_CASE("a session that is idle hears of the new size as well") {
  Bench bench;
  Initiator a(bench.target, bench.executor, "a");
  a.settle();
  REQUIRE(bench.registry.load("disk", "0 4096 linear mem:2M 0", false));
  REQUIRE(bench.registry.resume("disk"));
  CHECK(bench.executor.run_until([&] { return !a.heard().empty(); }));
  CHECK(a.heard() == std::vector<std::string>{"0: 2a09"});
}

TEST_CASE("a changed LUN map is 3F/0E on every LUN, until one asks for it") {
  Bench bench;
  bench.add_device("second");
  const auto first = bench.target->luns()[0].unit;
  Initiator a(bench.target, bench.executor);
  a.settle();
  bench.target->set_luns({{0, first}, {1, bench.unit(std::string("second"))}});
  CHECK(a.heard() == std::vector<std::string>{"0: 3f0e", "1: 3f0e"});
  CHECK(a.run(ready).code() == "06/3f0e");
  CHECK(a.run(ready, {}, 0, 1).code() == "06/2900");
  CHECK(a.run(ready, {}, 0, 1).code() == "06/3f0e");
  bench.target->set_luns({{0, first}});
  CHECK(a.read({0xa0, 0, 0, 0, 0, 0, 0, 0, 1, 0, 0, 0}, 256).good());
  CHECK(a.run(ready).good());
  CHECK(a.run(ready, {}, 0, 1).code() == "05/2500");
}

TEST_CASE("tasks of a LUN that is taken away end unanswered, and the device may go") {
  Hanging bench;
  auto hung = bench.a.start(read_1, {}, 512);
  auto waiting = bench.a.start(write_1, blocks_of(512, 1));
  bench.target->set_luns({});
  bench.executor.drain();
  CHECK(waiting->answer().aborted);
  bench.go();
  CHECK(bench.a.finish(*hung).aborted);
  hung->task.reset();
  waiting->task.reset();
  CHECK(bench.registry.remove("disk", {}));
}

TEST_CASE("one device is one unit in all targets; other options for it are refused") {
  Bench bench;
  CHECK(bench.unit(std::string("disk")) == bench.target->luns()[0].unit);
  UnitOptions other;
  other.device = "disk";
  other.block_size = 4096;
  CHECK(bench.units->open(other).code() == Errc::busy);
  other.block_size = 1024;
  CHECK(bench.units->open(other).code() == Errc::invalid);
  other.device = "none";
  other.block_size = 512;
  CHECK(bench.units->open(other).code() == Errc::not_found);
  REQUIRE(bench.registry.create({"odd", "", "", "0 2047 linear mem:1M 0", false}));
  other.device = "odd";
  other.block_size = 4096;
  CHECK(bench.units->open(other).code() == Errc::invalid);
  CHECK(bench.units->list().size() == 1);
  CHECK(bench.units->list()[0]->info().identifier.starts_with("naa.3"));
}

TEST_CASE("buffers come back to their pool, and a shard keeps only so many") {
  DataBufferPool pool(64 << 20);
  CHECK(pool.take(0).capacity() == 4096);
  CHECK(pool.take(4096).capacity() == 4096);
  CHECK(pool.take(4097).capacity() == 8192);
  CHECK(pool.take(DataBufferPool::largest).capacity() == DataBufferPool::largest);
  CHECK_FALSE(pool.take(DataBufferPool::largest + 1));
  {
    std::vector<DataBuffer> all;
    while (DataBuffer buffer = pool.take(1 << 20))
      all.push_back(std::move(buffer));
    CHECK(all.size() == 64);
    CHECK(pool.bytes_out() == std::size_t{64} << 20);
  }
  CHECK(pool.bytes_out() == 0);
  DataBuffer first = pool.take(100);
  std::byte* const place = first.data();
  first.reset();
  CHECK(pool.take(200).data() == place);
}
