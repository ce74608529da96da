#include <thread>

#include "tests/unit/target/target_test.hpp"

using namespace blockloom;
using namespace blockloom::test;
using namespace std::chrono_literals;

namespace {

constexpr const char* late = "0 64 delay mem:64K 0 3600000";  // an hour: never by itself

}  // namespace

TEST_CASE("delay sends each request on after its time") {
  Legs legs;
  auto target = create("0 64 delay mem:64K 16 30", legs);
  CHECK(target->maps_flush());
  CHECK_FALSE(target->inline_only());
  const Data data = noise(512);
  const TimePoint start = Clock::now();
  CHECK(write(*target, 512, data) == Errc::ok);
  CHECK(Clock::now() - start >= 30ms);
  CHECK(read(legs["mem:64K"], 17 * 512, 512) == data);
  CHECK(read(*target, 512, 512) == data);
  CHECK(run(*target, Op::flush, 0, 0) == Errc::ok);
  CHECK(Clock::now() - start >= 90ms);
  CHECK(target->status() == "0 0 0");
}

TEST_CASE("a delay of 0 maps at once") {
  Legs legs;
  auto target = create("0 64 delay mem:64K 16 0", legs);
  TestIo io(Op::read, 0, 512);
  CHECK(target->map(io.io) == Map::remapped);
  CHECK(io.io.offset == Bytes(16 * 512));
}

TEST_CASE("delay keeps reads, writes and flushes apart, each to its own leg") {
  Legs legs;
  auto target = create("0 64 delay mem:64K 1 0 mem:128K 2 0 mem:256K 3 0", legs);
  const struct {
    Op op;
    const char* leg;
    std::uint64_t offset;
  } rows[] = {{Op::read, "mem:64K", 512},    {Op::cache, "mem:64K", 512},
              {Op::extents, "mem:64K", 512}, {Op::write, "mem:128K", 1024},
              {Op::trim, "mem:128K", 1024},  {Op::zero, "mem:128K", 1024},
              {Op::flush, "mem:256K", 0}};
  for (const auto& row : rows) {
    TestIo io(row.op, 0, row.op == Op::flush ? 0 : 512);
    REQUIRE(target->map(io.io) == Map::remapped);
    CHECK(io.io.leg == &legs[row.leg]);
    CHECK(io.io.offset == Bytes(row.offset));
  }
  auto six = create("0 64 delay mem:64K 0 0 mem:128K 0 0", legs);
  TestIo flush(Op::flush, 0, 0);
  REQUIRE(six->map(flush.io) == Map::remapped);
  CHECK(flush.io.leg == &legs["mem:128K"]);
}

TEST_CASE("the status of delay counts what waits, by kind") {
  Legs legs;
  auto target = create(late, legs);
  TestIo a(Op::read, 0, 512), b(Op::extents, 0, 512), c(Op::write, 0, 512), d(Op::flush, 0, 0);
  for (TestIo* io : {&a, &b, &c, &d})
    REQUIRE(submit(*target, io->io) == Submit::pending);
  CHECK(target->status() == "2 1 1");
  CHECK(target->held() == 4);
  target->release_held(Errc::cancelled);
  CHECK(target->status() == "0 0 0");
}

TEST_CASE("presuspend sends on what waits, and delays nothing until resume") {
  Legs legs;
  auto target = create(late, legs);
  const Data data = noise(512);
  TestIo io(Op::write, 512, 512);
  io.data = data;
  io.io.data = io.data.data();
  REQUIRE(submit(*target, io.io) == Submit::pending);
  target->presuspend();
  CHECK(io.waiter.completions() == 1);
  CHECK(io.io.status == Errc::ok);
  CHECK(read(legs["mem:64K"], 512, 512) == data);
  CHECK(run(*target, Op::read, 0, 512) == Errc::ok);

  for (const bool undone : {true, false}) {
    if (undone)
      target->presuspend_undo();
    else
      target->resume();
    TestIo again(Op::read, 0, 512);
    CHECK(submit(*target, again.io) == Submit::pending);
    target->presuspend();
    CHECK(again.waiter.completions() == 1);
  }
}

TEST_CASE("release_held ends what delay holds with its status") {
  Legs legs;
  auto target = create(late, legs);
  TestIo io(Op::read, 0, 512);
  REQUIRE(submit(*target, io.io) == Submit::pending);
  target->release_held(Errc::shutdown);
  CHECK(io.waiter.completions() == 1);
  CHECK(io.io.status == Errc::shutdown);
  CHECK(target->held() == 0);
  CHECK(run(*target, Op::read, 0, 512) == Errc::ok);
}

TEST_CASE("requests that race with presuspend and resume each end once") {
  Legs legs;
  auto target = create("0 64 delay mem:64K 0 1", legs);
  std::atomic<bool> stop{false};
  std::atomic<int> bad{0};
  std::vector<std::thread> clients;
  for (int t = 0; t < 3; ++t)
    clients.emplace_back([&] {
      while (!stop) {
        TestIo io(Op::read, 0, 512);
        if (submit(*target, io.io) == Submit::pending && !io.waiter.wait()) ++bad;
        if (io.io.status != Errc::ok || io.waiter.completions() > 1) ++bad;
      }
    });
  for (int i = 0; i < 200; ++i) {
    target->presuspend();
    target->resume();
    std::this_thread::yield();
  }
  stop = true;
  for (auto& client : clients)
    client.join();
  CHECK(bad == 0);
  CHECK(target->held() == 0);
}

TEST_CASE("flakey works while up, and by default fails everything while down") {
  Legs legs;
  auto up = create("0 64 flakey mem:64K 16 1 0", legs);
  CHECK(up->maps_flush());
  CHECK(up->inline_only());
  CHECK(up->status().empty());
  const Data data = noise(512);
  CHECK(write(*up, 0, data) == Errc::ok);
  CHECK(read(legs["mem:64K"], 16 * 512, 512) == data);
  CHECK(run(*up, Op::flush, 0, 0) == Errc::ok);

  auto down = create("0 64 flakey mem:64K 16 0 1", legs);
  for (const Op op : {Op::read, Op::write, Op::flush, Op::trim, Op::zero, Op::cache, Op::extents})
    CHECK(run(*down, op, 0, op == Op::flush ? 0 : 512) == Errc::io);
  CHECK(read(*up, 0, 512) == data);
}

TEST_CASE("flakey changes between up and down by time") {
  Legs legs;
  auto target = create("0 64 flakey mem:64K 0 1 1", legs);
  bool works = false, fails = false;
  for (const TimePoint end = Clock::now() + 60s; Clock::now() < end && !(works && fails);) {
    (run(*target, Op::read, 0, 512) == Errc::ok ? works : fails) = true;
    std::this_thread::sleep_for(20ms);
  }
  CHECK(works);
  CHECK(fails);
}

TEST_CASE("flakey's features say what goes wrong while down") {
  struct Row {
    const char* features;
    Errc read, write, flush;
    bool written;
  };
  const Row rows[] = {
      {"1 error_reads", Errc::io, Errc::ok, Errc::ok, true},
      {"1 error_writes", Errc::ok, Errc::io, Errc::io, false},
      {"1 drop_writes", Errc::ok, Errc::ok, Errc::ok, false},
      {"2 error_reads Drop_Writes", Errc::io, Errc::ok, Errc::ok, false},
      {"2 error_reads error_writes", Errc::io, Errc::io, Errc::io, false},
  };
  for (const Row& row : rows) {
    CAPTURE(row.features);
    Legs legs;
    auto target = create(std::string("0 64 flakey mem:64K 0 0 1 ") + row.features, legs);
    const Data data = noise(512);
    for (const Op op : {Op::read, Op::cache, Op::extents})
      CHECK(run(*target, op, 0, 512) == row.read);
    for (const Op op : {Op::trim, Op::zero})
      CHECK(run(*target, op, 4096, 512) == row.write);
    CHECK(run(*target, Op::flush, 0, 0) == row.flush);
    CHECK(write(*target, 0, data) == row.write);
    CHECK((read(legs["mem:64K"], 0, 512) == data) == row.written);
  }
}

TEST_CASE("corrupt_bio_byte of reads changes what is read, not what is stored") {
  for (const std::string leg : {"mem:64K", "fault:[any=delay:1ms]:mem:64K"}) {
    CAPTURE(leg);
    Legs legs;
    auto target = create("0 64 flakey " + leg + " 0 0 1 5 corrupt_bio_byte 3 r 7 0", legs);
    CHECK(target->inline_only() == (leg == "mem:64K"));
    Data data = noise(1024);
    data[2] = std::byte{1};
    REQUIRE(write(*target, 512, data) == Errc::ok);
    CHECK(read(legs[leg], 512, 1024) == data);
    Data expected = data;
    expected[2] = std::byte{7};
    CHECK(read(*target, 512, 1024) == expected);
  }
}

TEST_CASE("corrupt_bio_byte of writes changes what is stored, not the caller's buffer") {
  for (const std::string leg : {"mem:64K", "fault:[any=delay:1ms]:mem:64K"}) {
    CAPTURE(leg);
    Legs legs;
    auto target = create("0 64 flakey " + leg + " 0 0 1 5 corrupt_bio_byte 512 w 9 0", legs);
    TestIo io(Op::write, 512, 1024);
    io.data = noise(1024);
    io.data[511] = std::byte{1};
    const Data before = io.data;
    io.io.data = io.data.data();
    REQUIRE(run(*target, io) == Errc::ok);
    CHECK(io.data == before);
    Data expected = before;
    expected[511] = std::byte{9};
    CHECK(read(legs[leg], 512, 1024) == expected);
    CHECK(read(*target, 512, 1024) == expected);
  }
}

TEST_CASE("corrupt_bio_byte hits only requests with its flags, and long enough") {
  Legs legs;
  auto target = create("0 64 flakey mem:64K 0 0 1 5 corrupt_bio_byte 600 w 9 131073", legs);
  Data data = noise(1024);
  data[599] = std::byte{1};
  Data hit = data;
  hit[599] = std::byte{9};
  CHECK(write(*target, 0, data) == Errc::ok);
  CHECK(read(*target, 0, 1024) == data);
  CHECK(write(*target, 0, data, io_flag::fua) == Errc::ok);
  CHECK(read(*target, 0, 1024) == hit);
  CHECK(write(*target, 4096, noise(512), io_flag::fua) == Errc::ok);
  CHECK(read(*target, 4096, 512) == noise(512));
}

TEST_CASE("a corrupted request passes its leg's error on") {
  Legs legs;
  auto reads = create(
      "0 64 flakey fault:[read=error:ENOSPC]:mem:64K 0 0 1 5 corrupt_bio_byte 1 r 0 0", legs);
  CHECK(run(*reads, Op::read, 0, 512) == Errc::no_space);
  auto writes =
      create("0 64 flakey fault:[write=hang]:mem:64K 0 0 1 5 corrupt_bio_byte 1 w 0 0", legs);
  TestIo io(Op::write, 0, 512);
  REQUIRE(submit(*writes, io.io) == Submit::pending);
  legs["fault:[write=hang]:mem:64K"].release_held(Errc::removed);
  REQUIRE(io.waiter.wait());
  CHECK(io.io.status == Errc::removed);
}
