#include <doctest/doctest.h>

#include "tests/unit/iscsi/initiator.hpp"

using namespace blockloom;

namespace {

const Octets read_10{0x28, 0, 0, 0, 0, 1, 0, 0, 2, 0};  // 2 blocks at 1
const Octets write_10{0x2a, 0, 0, 0, 0, 1, 0, 0, 2, 0};

}  // namespace

TEST_CASE("what is written in one length of CDB is read in the others") {
  Bench bench;
  Initiator a(bench.target, bench.executor);
  a.settle();
  const Octets data = blocks_of(512, 0x11) + blocks_of(512, 0x22);
  const Octets writes[] = {{0x0a, 0, 0, 1, 2, 0},
                           write_10,
                           {0xaa, 0, 0, 0, 0, 1, 0, 0, 0, 2, 0, 0},
                           {0x8a, 0, 0, 0, 0, 0, 0, 0, 0, 1, 0, 0, 0, 2, 0, 0}};
  const Octets reads[] = {{0x08, 0, 0, 1, 2, 0},
                          read_10,
                          {0xa8, 0, 0, 0, 0, 1, 0, 0, 0, 2, 0, 0},
                          {0x88, 0, 0, 0, 0, 0, 0, 0, 0, 1, 0, 0, 0, 2, 0, 0}};
  for (const Octets& write : writes) {
    CHECK(a.run(write, blocks_of(1024, 0)).good());
    CHECK(a.run(write, data).good());
    for (const Octets& read : reads) {
      const Answer answer = a.read(read, 1024);
      CHECK(answer.good());
      CHECK(answer.data == data);
      CHECK(answer.residual.kind == Residual::Kind::none);
    }
  }
}

TEST_CASE("READ(6) and WRITE(6) mean 256 blocks by 0") {
  Bench bench;
  Initiator a(bench.target, bench.executor);
  a.settle();
  CHECK(a.run({0x0a, 0, 0, 0, 0, 0}, blocks_of(256 * 512, 7)).good());
  const Answer answer = a.read({0x08, 0, 0, 0, 0, 0}, 256 * 512);
  CHECK(answer.data == blocks_of(256 * 512, 7));
}

TEST_CASE("no blocks are no transfer, and beyond the end even those are an error") {
  Bench bench;
  Initiator a(bench.target, bench.executor);
  a.settle();
  const Answer none = a.read({0x28, 0, 0, 0, 0, 0, 0, 0, 0, 0}, 0);
  CHECK(none.good());
  CHECK(none.data.empty());
  // 1 MiB is 2048 blocks.
  CHECK(a.read({0x28, 0, 0, 0, 8, 0, 0, 0, 0, 0}, 0).code() == "05/2100");
  CHECK(a.read({0x28, 0, 0, 0, 7, 0xff, 0, 0, 2, 0}, 1024).code() == "05/2100");
  CHECK(a.read({0x88, 0, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0, 0, 0, 2, 0, 0}, 1024)
            .code() == "05/2100");
  CHECK(a.run({0x2a, 0, 0, 0, 7, 0xff, 0, 0, 2, 0}, blocks_of(1024, 1)).code() == "05/2100");
  CHECK(a.read({0x28, 0, 0, 0, 7, 0xff, 0, 0, 1, 0}, 512).good());
}

TEST_CASE("a write that is refused asks for no data") {
  Bench bench;
  Initiator a(bench.target, bench.executor);
  a.settle();
  auto command = a.start({0x2a, 0, 0xff, 0, 0, 0, 0, 0, 1, 0}, blocks_of(512, 1));
  CHECK(command->step == TaskStep::ended);
  CHECK(command->answer().code() == "05/2100");
  CHECK(command->answer().residual.kind == Residual::Kind::underflow);
  CHECK(command->answer().residual.count == 512);
}

TEST_CASE("protection information is refused, DPO and FUA are taken") {
  Bench bench;
  Initiator a(bench.target, bench.executor);
  a.settle();
  const Answer refused = a.read({0x28, 0x20, 0, 0, 0, 0, 0, 0, 1, 0}, 512);
  CHECK(refused.code() == "05/2400");
  // The field pointer names byte 1 of the CDB.
  CHECK(Octets(refused.sense.begin() + 15, refused.sense.end()) == Octets{0xc0, 0, 1});
  CHECK(a.run({0x2a, 0x18, 0, 0, 0, 0, 0, 0, 1, 0}, blocks_of(512, 1)).good());
  CHECK(a.read({0x28, 0x18, 0, 0, 0, 0, 0, 0, 1, 0}, 512).good());
}

TEST_CASE("residuals are exact when the initiator expects more or less") {
  Bench bench;
  Initiator a(bench.target, bench.executor);
  a.settle();
  CHECK(a.run(write_10, blocks_of(1024, 5)).good());
  struct Case {
    std::uint32_t expected;
    Residual::Kind kind;
    std::uint32_t count;
  };
  for (const Case& c :
       {Case{0, Residual::Kind::overflow, 1024}, Case{200, Residual::Kind::overflow, 824},
        Case{512, Residual::Kind::overflow, 512}, Case{1024, Residual::Kind::none, 0},
        Case{10000, Residual::Kind::underflow, 8976}}) {
    const Answer in = a.read(read_10, c.expected);
    CHECK(in.good());
    CHECK(in.residual.kind == c.kind);
    CHECK(in.residual.count == c.count);
    CHECK(in.data == blocks_of(std::min<std::uint32_t>(c.expected, 1024), 5));
    a.expected_out = c.expected;
    const Answer out = a.run(write_10, blocks_of(c.expected, 5));
    a.expected_out.reset();
    CHECK(out.good());
    CHECK(out.residual.kind == c.kind);
    CHECK(out.residual.count == c.count);
  }
}

TEST_CASE("of a write that brings less, only whole blocks that came are written") {
  Bench bench;
  Initiator a(bench.target, bench.executor);
  a.settle();
  CHECK(a.run(write_10, blocks_of(1024, 'a')).good());
  CHECK(a.run(write_10, blocks_of(700, 'b')).good());
  CHECK(a.read(read_10, 1024).data == blocks_of(512, 'b') + blocks_of(512, 'a'));
}

TEST_CASE("a transfer longer than VPD B0 says is refused") {
  Bench bench({}, "mem:64M");
  Initiator a(bench.target, bench.executor);
  a.settle();
  REQUIRE(bench.registry.load("disk", "0 131072 linear mem:64M 0", false));
  REQUIRE(bench.registry.resume("disk"));
  a.settle();
  CHECK(a.read({0x88, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 0, 1, 0, 0}, 64).code() == "05/2400");
  CHECK(a.read({0x88, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 0, 0, 0, 0}, 64).good());
}

TEST_CASE("errors of the medium name the block") {
  Bench bench({}, "fault:[read=error]:mem:1M");
  Initiator a(bench.target, bench.executor);
  a.settle();
  const Answer answer = a.read({0x28, 0, 0, 0, 0, 9, 0, 0, 1, 0}, 512);
  CHECK(answer.code() == "03/1100");
  CHECK(answer.sense[0] == 0xf0);
  CHECK(Octets(answer.sense.begin() + 3, answer.sense.begin() + 7) == Octets{0, 0, 0, 9});
  CHECK(answer.residual.kind == Residual::Kind::underflow);
  CHECK(answer.residual.count == 512);
}

TEST_CASE("a read-only unit refuses every change before any data, and serves reads") {
  UnitOptions options;
  options.read_only = true;
  Bench bench(options);
  Initiator a(bench.target, bench.executor);
  a.settle();
  const Octets changes[] = {
      {0x2a, 0, 0, 0, 0, 0, 0, 0, 1, 0},  {0x0a, 0, 0, 0, 1, 0},
      {0x2e, 0, 0, 0, 0, 0, 0, 0, 1, 0},  {0x41, 0, 0, 0, 0, 0, 0, 0, 1, 0},
      {0x42, 0, 0, 0, 0, 0, 0, 0, 24, 0}, {0x8b, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 0, 0}};
  for (const Octets& change : changes) {
    auto command = a.start(change, blocks_of(512, 1));
    CHECK(command->step == TaskStep::ended);
    CHECK(command->answer().code() == "07/2700");
  }
  CHECK(a.run({0x89, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 0, 0}, blocks_of(1024, 1)).code() ==
        "07/2700");
  CHECK(a.read(read_10, 1024).good());
  CHECK(a.read({0x1a, 8, 0x08, 0, 64, 0}, 64).data[2] == 0x90);
}

TEST_CASE("blocks of 4096 bytes are counted as such") {
  UnitOptions options;
  options.block_size = 4096;
  Bench bench(options);
  Initiator a(bench.target, bench.executor);
  a.settle();
  CHECK(a.run({0x2a, 0, 0, 0, 0, 255, 0, 0, 1, 0}, blocks_of(4096, 3)).good());
  CHECK(a.read({0x28, 0, 0, 0, 0, 255, 0, 0, 1, 0}, 4096).data == blocks_of(4096, 3));
  CHECK(a.read({0x28, 0, 0, 0, 1, 0, 0, 0, 1, 0}, 4096).code() == "05/2100");
  auto raw = filled(4096, 0);
  REQUIRE(read_at(bench.device(), 255 * 4096, raw) == Errc::ok);
  CHECK(raw == filled(4096, 3));
}

TEST_CASE("a suspended device keeps tasks until it is resumed, and refuses them past its bound") {
  DeviceLimits limits;
  limits.queue_requests = 1;
  Bench bench({}, "mem:1M", {}, limits);
  Initiator a(bench.target, bench.executor);
  a.settle();
  REQUIRE(bench.registry.suspend("disk", {}));
  auto kept = a.start(read_10, {}, 1024);
  CHECK(kept->step == TaskStep::running);
  CHECK(a.read(read_10, 1024).status == scsi::Status::task_set_full);
  REQUIRE(bench.registry.resume("disk"));
  CHECK(a.finish(*kept).good());
}

TEST_CASE("a task that waits too long for a resume ends with BUSY") {
  DeviceLimits limits;
  limits.queue_timeout = std::chrono::milliseconds(10);
  Bench bench({}, "mem:1M", {}, limits);
  Initiator a(bench.target, bench.executor);
  a.settle();
  REQUIRE(bench.registry.suspend("disk", {}));
  CHECK(a.read(read_10, 1024).status == scsi::Status::busy);
  REQUIRE(bench.registry.resume("disk"));
}

TEST_CASE("a device that was removed by force is no logical unit any more") {
  Bench bench;
  Initiator a(bench.target, bench.executor);
  a.settle();
  REQUIRE(bench.registry.remove("disk", {false, true}));
  CHECK(a.read(read_10, 1024).code() == "05/2500");
  CHECK(a.run({0, 0, 0, 0, 0, 0}).code() == "05/2500");
  CHECK(a.read({0x12, 0, 0, 0, 96, 0}, 96).data[0] == 0x7f);
}

TEST_CASE("flushing, reading ahead: the range is checked, and the device asked") {
  Bench bench;
  Initiator a(bench.target, bench.executor);
  a.settle();
  CHECK(a.run({0x35, 0, 0, 0, 0, 0, 0, 0, 0, 0}).good());
  CHECK(a.run({0x91, 0, 0, 0, 0, 0, 0, 0, 0, 8, 0, 0, 0, 8, 0, 0}).good());
  CHECK(a.run({0x35, 0, 0, 0, 8, 0, 0, 0, 1, 0}).code() == "05/2100");
  CHECK(bench.device().leg_infos()[0].totals.others == 2);
  CHECK(a.run({0x34, 0, 0, 0, 0, 0, 0, 0, 8, 0}).good());
  CHECK(a.run({0x90, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0}).good());
  CHECK(a.run({0x34, 0, 0, 0, 7, 0xff, 0, 0, 2, 0}).code() == "05/2100");
  CHECK(bench.device().leg_infos()[0].totals.others == 4);
}

TEST_CASE("what the pool does not have is TASK SET FULL, and comes back with its task") {
  LogicalUnits::Options limits;
  limits.buffer_bytes = 4096;
  Bench bench({}, "mem:1M", limits);
  Initiator a(bench.target, bench.executor);
  a.settle();
  auto first = a.start(write_10, blocks_of(1024, 1));
  CHECK(first->step == TaskStep::wants_data);
  CHECK(a.read(read_10, 1024).status == scsi::Status::task_set_full);
  CHECK(a.finish(*first).good());
  first->task.reset();
  CHECK(a.read(read_10, 1024).good());
  CHECK(bench.units->buffers().bytes_out() == 0);
}
