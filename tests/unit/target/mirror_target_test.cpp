#include <fstream>

#include "server/leg/secrets.hpp"
#include "tests/unit/target/mirror_test.hpp"

using namespace blockloom;
using namespace blockloom::test;
using namespace std::chrono_literals;

namespace {

constexpr std::uint64_t mib = 1 << 20;

/// Files for a mirror of 4 MiB in regions of 64 KiB with a disk log.
struct Files {
  TempDir dir;
  std::string a = dir.file("a", 4 * mib), b = dir.file("b", 4 * mib), log = dir.file("log", mib);

  std::string line(const std::string& features = "0", const std::string& log_words = "") const {
    return fmt::format("0 8192 mirror disk {} {} 128{} 2 {} 0 {} 0 {}", log_words.empty() ? 2 : 3,
                       log, log_words, a, b, features);
  }
  std::string faulty(const std::string& rules, const std::string& features) const {
    return fmt::format("0 8192 mirror disk 2 {} 128 2 {} 0 fault:[{}]:{} 0 {}", log, a, rules, b,
                       features);
  }
};

Data content(const std::string& path) {
  auto leg = open(path);
  return read(*leg, 0, leg->size().value);
}

/// Opens memory for whatever URI, so that a URI of a server can stand in a line.
class AnyLegs final : public LegOpener {
 public:
  Result<std::shared_ptr<Leg>> open(std::string_view, Sectors, Sectors) override {
    LegContext context;
    return open_leg("mem:4M", false, context);
  }
};

}  // namespace

TEST_CASE("a leg's password is shown nowhere, and saved") {
  AnyLegs legs;
  const std::string secret = "iscsi://alice%open-sesame-1@127.0.0.1/iqn.2026-01.x:y/1";
  const auto target =
      create(fmt::format("0 8192 mirror core 1 128 2 mem:4M 0 {} 0 0", secret), legs);
  CHECK(target->table().find("alice%***@") != std::string::npos);
  for (const std::string& text : {target->table(), target->status(), target->details()})
    CHECK(text.find("open-sesame") == std::string::npos);
  const RevealSecrets reveal;
  CHECK(target->table().find(secret) != std::string::npos);
}

TEST_CASE("a write goes to both legs, a read comes from one") {
  Files files;
  LiveMirror mirror(files.line("0", " nosync"));
  const Data data = noise(8192);
  CHECK(mirror.write(65536, data) == Errc::ok);
  CHECK(mirror.read(65536, 8192) == data);
  CHECK(mirror.flush() == Errc::ok);
  auto a = content(files.a), b = content(files.b);
  CHECK(a == b);
  CHECK(Data(a.begin() + 65536, a.begin() + 65536 + 8192) == data);
  CHECK(mirror->status() ==
        fmt::format("2 {} {} 64/64 1 AA 3 disk {} A", files.a, files.b, files.log));
}

TEST_CASE("trim, zero, extents and cache work through a mirror") {
  Files files;
  LiveMirror mirror(files.line("0", " nosync"));
  CHECK(mirror.write(0, noise(65536)) == Errc::ok);
  CHECK(mirror.submit(Op::zero, 0, 4096, nullptr) == Errc::ok);
  CHECK(mirror.read(0, 4096) == zeroes(4096));
  CHECK(mirror.submit(Op::trim, 32768, 4096, nullptr) == Errc::ok);
  CHECK(mirror.submit(Op::zero, 0, 4096, nullptr, nullptr, io_flag::fast) == Errc::not_supported);
  CHECK(mirror.submit(Op::cache, 0, 4096, nullptr) == Errc::ok);
  Extents extents;
  CHECK(mirror.submit(Op::extents, 65536, 65536, nullptr, &extents) == Errc::ok);
  CHECK(extents.list() == std::vector{Extent{Bytes(65536), true, true}});
  CHECK(content(files.a) == content(files.b));
}

TEST_CASE("a new mirror is copied from its first leg") {
  Files files;
  {
    auto a = open(files.a);
    CHECK(write(*a, 0, noise(4 * mib)) == Errc::ok);
  }
  LiveMirror mirror(files.line());
  CHECK(mirror.wait_for_status("64/64 1 AA"));
  CHECK(content(files.a) == content(files.b));
}

TEST_CASE("a leg that fails a write is left behind and copied again") {
  Files files;
  LiveMirror mirror(files.faulty("write=error,x1", "4 clean_delay_ms 50 fence_delay_ms 10"));
  REQUIRE(mirror.wait_for_status("64/64"));
  const Data data = noise(4096);
  CHECK(mirror.write(4096, data) == Errc::ok);
  CHECK(mirror.read(4096, 4096) == data);
  CHECK(mirror.wait_for_status("64/64 1 AA"));
  CHECK(content(files.a) == content(files.b));
}

TEST_CASE("a leg that hangs holds a write up for its timeout only") {
  Files files;
  LiveMirror mirror(files.faulty("", "4 timeout_ms 200 fence_delay_ms 50"));
  REQUIRE(mirror.wait_for_status("64/64 1 AA"));
  Leg& hanging = *mirror->legs()[1];
  REQUIRE(hanging.message("rules write=hang"));
  const TimePoint start = Clock::now();
  const Data data = noise(4096);
  CHECK(mirror.write(0, data) == Errc::ok);
  CHECK(Clock::now() - start >= 200ms);
  CHECK(mirror->status().find("AD") != std::string::npos);
  // Newer data, while the old write is still out: it must not survive.
  const Data newer = noise(4096, 2);
  CHECK(mirror.write(0, newer) == Errc::ok);
  CHECK(mirror.read(0, 4096) == newer);
  REQUIRE(hanging.message("clear"));
  CHECK(mirror.wait_for_status("64/64 1 AA"));
  CHECK(content(files.a) == content(files.b));
  CHECK(mirror.read(0, 4096) == newer);
}

TEST_CASE("a suspend leaves nothing running, and a resume goes on") {
  Files files;
  LiveMirror mirror(files.line());
  mirror.suspend();
  CHECK(mirror->held() == 0);
  mirror.resume();
  CHECK(mirror.write(0, noise(4096)) == Errc::ok);
  CHECK(mirror.wait_for_status("64/64 1 AA"));
}

TEST_CASE("a restart after an orderly end copies nothing") {
  Files files;
  {
    LiveMirror mirror(files.line());
    REQUIRE(mirror.wait_for_status("64/64 1 AA"));
    CHECK(mirror.write(0, noise(4096)) == Errc::ok);
  }
  LiveMirror mirror(files.line());
  CHECK(mirror->details().find("\"dirty_regions\":0") != std::string::npos);
  CHECK(mirror->status().find("64/64 1 AA") != std::string::npos);
}

TEST_CASE("the record of another mirror, and what is no record, are refused") {
  Files files;
  { LiveMirror mirror(files.line("0", " nosync")); }
  Legs legs;
  SUBCASE("other legs") {
    const std::string c = files.dir.file("c", 4 * mib), d = files.dir.file("d", 4 * mib);
    auto target =
        create(fmt::format("0 8192 mirror disk 2 {} 128 2 {} 0 {} 0", files.log, c, d), legs);
    const auto refused = target->preresume();
    REQUIRE_FALSE(refused);
    CHECK(refused.error().message.find("belongs to a mirror with other legs") != std::string::npos);
  }
  SUBCASE("another size") {
    auto target = create(
        fmt::format("0 4096 mirror disk 2 {} 128 2 {} 0 {} 0", files.log, files.a, files.b), legs);
    CHECK_FALSE(target->preresume());
  }
  SUBCASE("something else") {
    std::ofstream(files.log, std::ios::in | std::ios::out) << std::string(20000, 'x');
    auto target = create(files.line(), legs);
    const auto refused = target->preresume();
    REQUIRE_FALSE(refused);
    CHECK(refused.error().message.find("something else than a mirror's log") != std::string::npos);
  }
  SUBCASE("too small") {
    std::filesystem::resize_file(files.log, 4096);
    const auto refused = try_create(files.line(), legs);
    REQUIRE_FALSE(refused);
    CHECK(refused.error().message.find("its log, which takes") != std::string::npos);
  }
}

TEST_CASE("the next table goes on with the mirror of the one before") {
  Files files;
  const std::string c = files.dir.file("c", 4 * mib);
  auto with_c = [&] {
    return fmt::format("0 8192 mirror disk 2 {} 128 3 {} 0 {} 0 {} 0", files.log, files.a, files.b,
                       c);
  };
  LiveMirror two(files.line());
  REQUIRE(two.wait_for_status("64/64 1 AA"));
  const Data data = noise(4096);
  CHECK(two.write(0, data) == Errc::ok);
  Legs legs;
  auto three = create(with_c(), legs);
  {
    // Not while the other serves.
    const auto busy = three->preresume();
    REQUIRE_FALSE(busy);
    CHECK(busy.code() == Errc::busy);
  }
  two.suspend();
  const auto taken = three->preresume();
  REQUIRE_MESSAGE(taken, taken.error().message);
  three->resume();
  two.take().reset();  // the old table goes last, and takes nothing with it
  for (int i = 0; i < 6000 && three->status().find("64/64 1 AAA") == std::string::npos; ++i)
    std::this_thread::sleep_for(10ms);
  CHECK(three->status().find("64/64 1 AAA") != std::string::npos);
  CHECK(content(c) == content(files.a));

  // And back, without the first: a leg is replaced by a swap.
  auto swapped =
      create(fmt::format("0 8192 mirror disk 2 {} 128 2 {} 0 {} 0", files.log, files.b, c), legs);
  three->presuspend();
  three->postsuspend();
  const auto again = swapped->preresume();
  REQUIRE_MESSAGE(again, again.error().message);
  swapped->resume();
  three.reset();
  CHECK(swapped->status().find("64/64 1 AA") != std::string::npos);
  swapped->presuspend();
  swapped->postsuspend();
}
