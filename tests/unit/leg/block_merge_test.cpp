#include "server/leg/block_merge.hpp"

#include <deque>
#include <random>

#include "tests/unit/leg/leg_test.hpp"

using namespace blockloom;
using namespace blockloom::test;

namespace {

constexpr std::uint32_t block = 4096;
constexpr std::uint64_t disk_size = 64 * block;

/// A disk of whole blocks, which ends its requests only when it is told to.
class Disk {
 public:
  Data content = Data(disk_size);
  std::deque<Io*> held;
  bool holds = true;
  Errc error = Errc::ok;
  unsigned requests = 0;

  Submit submit(Io& io) {
    REQUIRE(io.offset.value % block == 0);
    REQUIRE(io.length.value % block == 0);
    REQUIRE(io.length.value > 0);
    REQUIRE(io.leg == nullptr);
    ++requests;
    if (!holds) return io.finish_inline(work(io));
    held.push_back(&io);
    return Submit::pending;
  }

  void release(std::size_t n = 0) {
    Io& io = *held.at(n);
    held.erase(held.begin() + static_cast<std::ptrdiff_t>(n));
    io.status = work(io);
    io.complete(io);
  }
  void release_all() {
    while (!held.empty())
      release();
  }

 private:
  Errc work(const Io& io) {
    if (error != Errc::ok) return error;
    const auto at = content.begin() + static_cast<std::ptrdiff_t>(io.offset.value);
    const auto n = static_cast<std::ptrdiff_t>(io.length.value);
    if (io.op == Op::read) std::copy(at, at + n, io.data);
    if (io.op == Op::write) std::copy(io.data, io.data + n, at);
    if (io.op == Op::zero) std::fill(at, at + n, std::byte{0});
    return Errc::ok;
  }
};

struct Fixture {
  Disk disk;
  BlockMerge merge{block, [this](Io& io) { return disk.submit(io); }};

  static void end(Io& io, Errc status) noexcept {
    io.status = status;
    io.complete(io);
  }
  Submit submit(TestIo& io) { return merge.submit(io.io, end); }
  Errc run(TestIo& io) {
    if (submit(io) == Submit::pending) {
      disk.release_all();
      REQUIRE(io.waiter.completions() == 1);
    }
    return io.io.status;
  }
};

}  // namespace

TEST_CASE("what is in whole blocks and changes nothing passes") {
  Fixture f;
  CHECK(f.merge.passes(TestIo(Op::read, block, block).io));
  CHECK(f.merge.passes(TestIo(Op::flush, 0, 0).io));
  CHECK_FALSE(f.merge.passes(TestIo(Op::read, 512, 512).io));
  CHECK_FALSE(f.merge.passes(TestIo(Op::write, block, block).io));
}

TEST_CASE("random sectors behave as on a disk of sectors") {
  Fixture f;
  Data model = noise(disk_size, 7);
  f.disk.content = model;
  std::mt19937 random(42);
  for (int i = 0; i < 3000; ++i) {
    f.disk.holds = random() % 2 == 0;
    const std::uint64_t offset = random() % (disk_size / 512) * 512;
    const std::uint64_t length =
        std::min<std::uint64_t>(disk_size - offset, (1 + random() % 40) * 512);
    const auto at = model.begin() + static_cast<std::ptrdiff_t>(offset);
    constexpr Op ops[] = {Op::read, Op::write, Op::zero, Op::trim};
    TestIo io(ops[random() % 4], offset, length);
    if (io.io.op == Op::write) {
      io.data = noise(length, static_cast<unsigned>(i));
      io.io.data = io.data.data();
    }
    REQUIRE(f.run(io) == Errc::ok);
    if (io.io.op == Op::write) std::copy(io.data.begin(), io.data.end(), at);
    if (io.io.op == Op::zero) std::fill(at, at + static_cast<std::ptrdiff_t>(length), std::byte{0});
    if (io.io.op == Op::read) REQUIRE(std::equal(io.data.begin(), io.data.end(), at));
    REQUIRE(f.disk.content == model);
  }
}

TEST_CASE("two that change one block go one after the other, others pass them") {
  Fixture f;
  TestIo first(Op::write, 0, 512), second(Op::write, 512, 512), apart(Op::write, block, 512);
  for (TestIo* io : {&first, &second, &apart})
    std::fill(io->data.begin(), io->data.end(), std::byte{1});
  CHECK(f.submit(first) == Submit::pending);
  CHECK(f.submit(second) == Submit::pending);
  CHECK(f.submit(apart) == Submit::pending);
  CHECK(f.merge.has(second.io));
  CHECK(f.disk.held.size() == 2);  // reads of two blocks: the second write waits
  f.disk.release(1);
  f.disk.release(1);
  CHECK(apart.waiter.completions() == 1);
  CHECK(first.waiter.completions() == 0);
  f.disk.release_all();
  CHECK(first.waiter.completions() == 1);
  CHECK(second.waiter.completions() == 1);
  CHECK_FALSE(f.merge.has(second.io));
  CHECK(Data(f.disk.content.begin(), f.disk.content.begin() + 1024) == Data(1024, std::byte{1}));
  CHECK(f.disk.content[1024] == std::byte{0});
}

TEST_CASE("a whole block's write waits for the part that is being merged into it") {
  Fixture f;
  TestIo part(Op::write, 512, 512), whole(Op::write, 0, block);
  std::fill(whole.data.begin(), whole.data.end(), std::byte{2});
  f.submit(part);
  f.submit(whole);
  CHECK(f.disk.held.size() == 1);
  f.disk.release_all();
  CHECK(f.disk.content[512] == std::byte{2});
}

TEST_CASE("an error of any part ends the request, and those that waited go on") {
  Fixture f;
  TestIo first(Op::write, 512, 2 * block), second(Op::write, 0, 512);
  f.submit(first);
  f.submit(second);
  f.disk.error = Errc::timed_out;
  f.disk.release();
  CHECK(first.waiter.completions() == 1);
  CHECK(first.io.status == Errc::timed_out);
  CHECK(f.disk.requests == 2);  // the first one's other parts never went out
  f.disk.error = Errc::ok;
  f.disk.release_all();
  CHECK(second.io.status == Errc::ok);
}

TEST_CASE("a fast zero of parts of blocks is declined, hints cost nothing") {
  Fixture f;
  TestIo zero(Op::zero, 512, 512, io_flag::fast), cache(Op::cache, 512, 512),
      trim(Op::trim, 512, 1024), extents(Op::extents, 512, 1024);
  CHECK(f.run(zero) == Errc::not_supported);
  CHECK(f.run(cache) == Errc::ok);
  CHECK(f.run(trim) == Errc::ok);
  CHECK(f.run(extents) == Errc::ok);
  CHECK(extents.extents.list() == std::vector<Extent>{{Bytes(1024), false, false}});
  CHECK(f.disk.requests == 0);
}

TEST_CASE("FUA reaches the writes of parts too") {
  Fixture f;
  TestIo io(Op::write, 512, 512, io_flag::fua);
  f.submit(io);
  f.disk.release();  // the read
  REQUIRE(f.disk.held.size() == 1);
  CHECK(f.disk.held[0]->op == Op::write);
  CHECK(f.disk.held[0]->has(io_flag::fua));
  f.disk.release_all();
  CHECK(io.io.status == Errc::ok);
}

TEST_CASE("there is a limit to what waits") {
  Fixture f;
  std::vector<std::unique_ptr<TestIo>> all;
  for (std::size_t i = 0; i < BlockMerge::most; ++i) {
    all.push_back(std::make_unique<TestIo>(Op::write, 0, 512));
    REQUIRE(f.submit(*all.back()) == Submit::pending);
  }
  TestIo more(Op::write, 0, 512);
  CHECK(f.submit(more) == Submit::done);
  CHECK(more.io.status == Errc::limit);
  f.disk.release_all();
}
