#include "server/target/mirror/spec.hpp"
#include "tests/unit/target/target_test.hpp"

using namespace blockloom;
using namespace blockloom::mirror;
using namespace blockloom::test;

namespace {

Result<MirrorSpec> parse(const std::string& text) {
  auto lines = parse_table("0 2048 mirror " + text);
  REQUIRE(lines);
  return parse_mirror(lines->front().words);
}

std::string refused(const std::string& text) {
  const auto spec = parse(text);
  REQUIRE_FALSE(spec);
  return spec.error().message;
}

}  // namespace

TEST_CASE("dm-raid1's lines are read") {
  auto spec = parse("core 1 1024 2 /a 0 /b 2048");
  REQUIRE(spec);
  CHECK_FALSE(spec->disk_log);
  CHECK(spec->region_size == Sectors(1024));
  CHECK_FALSE(spec->sync);
  REQUIRE(spec->legs.size() == 2);
  CHECK(spec->legs[1].uri == "/b");
  CHECK(spec->legs[1].offset == Sectors(2048));

  spec = parse("disk 4 /log 2048 nosync block_on_error 3 /a 0 /b 0 /c 0 1 handle_errors");
  REQUIRE(spec);
  CHECK(spec->disk_log);
  CHECK(spec->log_uri == "/log");
  CHECK(spec->sync == false);
  CHECK(spec->block_on_error);
  CHECK(spec->handle_errors);
}

TEST_CASE("our features are read, for the mirror and for one leg") {
  auto spec = parse(
      "core 1 1024 2 /a 0 nbd://h/b 0 22 timeout_ms 3000 timeout_ms@1 500 read_timeout_ms 100 "
      "min_acks 2 read_policy preferred preferred 1 hedge_ms 20 on_all_failed queue resync_rate "
      "10M "
      "fence_delay_ms 50 late_limit 1M");
  REQUIRE_MESSAGE(spec, spec.error().message);
  CHECK(timeout_of(*spec, 0, false) == 3000);
  CHECK(timeout_of(*spec, 1, true) == 500);
  CHECK(spec->min_acks == 2);
  CHECK(spec->read_policy == ReadPolicy::preferred);
  CHECK(spec->preferred == 1U);
  CHECK(spec->hedge_ms == 20);
  CHECK(spec->on_all_failed == OnAllFailed::queue);
  CHECK(spec->resync_rate == Bytes(10 << 20));
  CHECK(spec->late_limit == Bytes(1 << 20));
}

TEST_CASE("without a word a peer gets 8 seconds, and a local leg no bound") {
  auto spec = parse("core 1 1024 2 /a 0 /b 0");
  REQUIRE(spec);
  CHECK(timeout_of(*spec, 0, false) == 0);
  CHECK(timeout_of(*spec, 0, true) == 8000);
}

TEST_CASE("what is written is read back") {
  for (const std::string text :
       {"core 1 1024 2 /a 0 /b 2048", "disk 2 /my\\ log 2048 2 /a 0 /b 0 1 handle_errors",
        "core 2 128 nosync 2 /a 0 /b 0 6 handle_errors keep_log timeout_ms 100 timeout_ms@1 5",
        "disk 3 /log 1024 sync 9 /a 0 /b 0 /c 0 /d 0 /e 0 /f 0 /g 0 /h 0 /i 0 2 min_acks 3"}) {
    auto spec = parse(text);
    REQUIRE_MESSAGE(spec, spec.error().message);
    CHECK(to_text(*spec) == text);
  }
}

TEST_CASE("each bad line is told what was expected") {
  CHECK(refused("") ==
        "mirror: the line ends where the log (core or disk) is expected: LOG "
        "#LOGARGS LOGARG… #LEGS (LEG OFFSET)… [#FEATURES FEATURE…]");
  CHECK(refused("tape 1 1024 2 /a 0 /b 0") == "mirror: log 'tape': expected core or disk");
  CHECK(refused("core 9 1024 2") ==
        "mirror: number of log arguments 9: expected as many words after it, and there are 2");
  CHECK(refused("core 1 100 2 /a 0 /b 0") ==
        "mirror: region size '100': expected a power of two of at least 128 sectors (64 KiB)");
  CHECK(refused("core 2 1024 slow 2 /a 0 /b 0") ==
        "mirror: log argument 'slow': expected sync, nosync or block_on_error");
  CHECK(refused("disk 1 1024 2 /a 0 /b 0") ==
        "mirror: log disk: expected LOG_LEG REGION_SIZE [sync|nosync]");
  CHECK(refused("core 1 1024 0") ==
        "mirror: 0 legs: expected 2 to 9; 1 is a mirror that lost its others");
  CHECK(refused("core 1 1024 10 /a 0") ==
        "mirror: 10 legs: expected 2 to 9; 1 is a mirror that lost its others");
  CHECK(refused("core 1 1024 2 /a 0 /a 0") ==
        "mirror: leg '/a' is given twice: two legs on one medium protect from nothing");
  CHECK(refused("disk 2 /a 1024 2 /a 0 /b 0") ==
        "mirror: '/a' is a leg and the log: expected another file for the log");
  CHECK(refused("core 1 1024 2 /a 0 /b 0 1 shiny")
            .starts_with("mirror: feature 'shiny': expected handle_errors, keep_log, force"));
  CHECK(refused("core 1 1024 2 /a 0 /b 0 2 timeout_ms soon").starts_with("mirror: timeout_ms "));
  CHECK(refused("core 1 1024 2 /a 0 /b 0 2 timeout_ms@2 5").starts_with("mirror: leg in "));
  CHECK(refused("core 1 1024 2 /a 0 /b 0 2 min_acks@1 1") ==
        "mirror: feature 'min_acks@1': min_acks is the whole mirror's: expected it without @");
  CHECK(refused("core 1 1024 2 /a 0 /b 0 2 min_acks 3") ==
        "mirror: min_acks 3: expected 1 to 2, the number of legs");
  CHECK(refused("core 1 1024 2 /a 0 /b 0 2 read_policy best") ==
        "mirror: read_policy 'best': expected least_outstanding, preferred or round_robin");
  CHECK(refused("core 1 1024 2 /a 0 /b 0 1 handle_errors more") ==
        "mirror: 'more' after the features: expected the end of the line");
}
