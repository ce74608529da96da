#include "tests/unit/target/target_test.hpp"

using namespace blockloom;
using namespace blockloom::test;

namespace {

/// What the core does above a target: splits at chunks, and makes the copies.
Errc submit_split(Target& target, Op op, std::uint64_t offset, std::uint64_t length,
                  std::byte* data) {
  if (op == Op::trim || op == Op::zero) {
    for (std::uint32_t copy = 0; copy < target.copies(); ++copy) {
      TestIo io(op, offset, length);
      io.io.copy = copy;
      if (const Errc e = run(target, io); e != Errc::ok) return e;
    }
    return Errc::ok;
  }
  const std::uint64_t chunk = target.chunk().value;
  for (std::uint64_t done = 0; done < length;) {
    const std::uint64_t at = offset + done;
    const std::uint64_t piece = std::min(length - done, chunk - at % chunk);
    TestIo io(op, at, piece);
    io.io.data = data + done;
    if (const Errc e = run(target, io); e != Errc::ok) return e;
    done += piece;
  }
  return Errc::ok;
}

struct Layout {
  std::uint64_t stripes, chunk, rows;  // in sectors
  std::vector<std::uint64_t> offsets;

  std::uint64_t length() const { return stripes * chunk * rows; }
  static std::uint64_t size(std::uint64_t i) { return (1 << 20) + 512 * i; }

  std::string line() const {
    std::string text = "0 " + std::to_string(length()) + " striped " + std::to_string(stripes) +
                       " " + std::to_string(chunk);
    for (std::uint64_t i = 0; i < stripes; ++i)
      text += " mem:" + std::to_string(size(i)) + " " + std::to_string(offsets[i]);
    return text;
  }

  /// Where dm's layout puts a sector, one sector at a time.
  std::pair<std::uint64_t, std::uint64_t> place(std::uint64_t sector) const {
    const std::uint64_t number = sector / chunk;
    const std::uint64_t stripe = number % stripes;
    return {stripe, offsets[stripe] + number / stripes * chunk + sector % chunk};
  }
};

Layout random_layout(std::mt19937& random) {
  Layout layout;
  layout.stripes = 1 + random() % 9;
  layout.chunk = random() % 2 == 0 ? 1ULL << random() % 7 : 1 + random() % 100;
  layout.rows = 1 + random() % (1500 / layout.chunk);
  for (std::uint64_t i = 0; i < layout.stripes; ++i)
    layout.offsets.push_back(random() % 500);
  return layout;
}

}  // namespace

TEST_CASE("striped asks for its part of each leg, chunks and copies") {
  Legs legs;
  auto target = create("0 96 striped 3 16 mem:64K 1 mem:64K 64 mem:128K 7", legs);
  CHECK(target->type() == "striped");
  CHECK(target->chunk() == Bytes(16 * 512));
  CHECK(target->copies() == 3);
  CHECK(target->inline_only());
  CHECK_FALSE(target->maps_flush());
  CHECK(target->legs().size() == 3);
  REQUIRE(legs.asked.size() == 3);
  for (const auto& range : legs.asked)
    CHECK(range.length == Sectors(32));
  CHECK(legs.asked[1].offset == Sectors(64));
}

TEST_CASE("striped lays bytes as device-mapper does, for any width, chunk and offsets") {
  std::mt19937 random(7);
  for (int round = 0; round < 60; ++round) {
    const Layout layout = random_layout(random);
    CAPTURE(round);
    CAPTURE(layout.line());
    Legs legs;
    auto target = create(layout.line(), legs);
    const std::uint64_t size = layout.length() * 512;
    const auto leg = [&](std::uint64_t i) -> Leg& {
      return legs["mem:" + std::to_string(Layout::size(i))];
    };

    // Legs full of other bytes, of which none outside the stripes may change.
    std::vector<Data> model;
    for (std::uint64_t i = 0; i < layout.stripes; ++i) {
      model.push_back(noise(Layout::size(i), static_cast<unsigned>(random())));
      REQUIRE(write(leg(i), 0, model.back()) == Errc::ok);
    }
    for (int step = 0; step < 12; ++step) {
      const std::uint64_t first = random() % layout.length();
      const std::uint64_t count = 1 + random() % (layout.length() - first);
      const Op op = std::array{Op::write, Op::zero, Op::trim}[random() % 3];
      const Data data = op == Op::write ? noise(count * 512, static_cast<unsigned>(random()))
                                        : zeroes(count * 512);
      Data copy = data;
      REQUIRE(submit_split(*target, op, first * 512, count * 512, copy.data()) == Errc::ok);
      for (std::uint64_t s = 0; s < count; ++s) {
        const auto [stripe, sector] = layout.place(first + s);
        std::copy_n(data.begin() + static_cast<std::ptrdiff_t>(s * 512), 512,
                    model[stripe].begin() + static_cast<std::ptrdiff_t>(sector * 512));
      }
    }
    bool same = true;
    for (std::uint64_t i = 0; i < layout.stripes; ++i)
      same = same && read(leg(i), 0, Layout::size(i)) == model[i];
    CHECK(same);
    Data whole(size);
    REQUIRE(submit_split(*target, Op::read, 0, size, whole.data()) == Errc::ok);
    for (std::uint64_t s = 0; s < layout.length() && same; ++s) {
      const auto [stripe, sector] = layout.place(s);
      same = std::equal(whole.begin() + static_cast<std::ptrdiff_t>(s * 512),
                        whole.begin() + static_cast<std::ptrdiff_t>(s * 512 + 512),
                        model[stripe].begin() + static_cast<std::ptrdiff_t>(sector * 512));
    }
    CHECK(same);
  }
}

TEST_CASE("a stripe that a trim or zero does not touch is done without its leg") {
  Legs legs;
  auto target = create("0 64 striped 2 16 mem:64K 0 mem:128K 0", legs);
  for (const Op op : {Op::trim, Op::zero}) {
    TestIo io(op, 0, 16 * 512);
    io.io.copy = 1;
    CHECK(target->map(io.io) == Map::done);
    CHECK(io.io.status == Errc::ok);
    TestIo touched(op, 4 * 512, 40 * 512);
    touched.io.copy = 0;
    CHECK(target->map(touched.io) == Map::remapped);
    CHECK(touched.io.offset == Bytes(4 * 512));
    CHECK(touched.io.length == Bytes(24 * 512));
  }
}

TEST_CASE("the status of striped says which stripes had errors") {
  Legs legs;
  auto target = create(
      "0 64 striped 2 16 mem:64K 0 fault:[write=error;zero=error:EOPNOTSUPP]:mem:64K 0", legs);
  const std::string names = "mem:64K fault:[write=error;zero=error:EOPNOTSUPP]:mem:64K";
  CHECK(target->status() == "2 " + names + " 1 AA");
  TestIo zero(Op::zero, 0, 64 * 512, io_flag::fast);
  zero.io.copy = 1;
  CHECK(run(*target, zero) == Errc::not_supported);
  CHECK(target->status() == "2 " + names + " 1 AA");
  CHECK(write(*target, 16 * 512, noise(512)) == Errc::io);
  CHECK(target->status() == "2 " + names + " 1 AD");
}

TEST_CASE("the largest chunk and offset of a stripe do not overflow") {
  Legs legs;
  CHECK(target_refusal("0 18014398509481983 striped 1 4294967295 mem:64K 0") ==
        "striped: length 18014398509481983: expected a multiple of 1 stripes × chunk size "
        "4294967295 = 4294967295");
  CHECK(target_refusal("0 4294967295 striped 1 4294967295 mem:64K 18014398509481983") ==
        "leg too small");
}
