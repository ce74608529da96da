#include "server/target/mirror/region_log.hpp"

#include <doctest/doctest.h>

#include "tests/unit/mirror/log_medium.hpp"

namespace blockloom::mirror::test {
namespace {

/// A log with a history: two generations of each page.
RegionLog with_marks(Medium& medium, const LogIdentity& identity) {
  RegionLog log = RegionLog::create(identity, false).value();
  medium.commit(log);
  log.set_epoch(6);
  log.set_stale(1, leg_bit(0), true);
  log.set_dirty(3, true);
  medium.commit(log);
  log.set_epoch(7);
  log.set_dirty(3, false);
  log.set_dirty(2, true);
  log.set_stale(1, leg_bit(0), false);
  log.set_stale(1, leg_bit(1), true);
  medium.commit(log);
  return log;
}

bool same_marks(const RegionLog& a, const RegionLog& b) {
  for (std::uint64_t r = 0; r < a.regions(); ++r)
    if (a.dirty(r) != b.dirty(r) || a.stale(r) != b.stale(r)) return false;
  return a.epoch() == b.epoch() && a.identity().roles == b.identity().roles &&
         a.identity().legs == b.identity().legs && a.closed() == b.closed();
}

TEST_CASE("what is committed is read back") {
  const LogIdentity identity = identity_of(5);
  Medium medium(5);
  const RegionLog log = with_marks(medium, identity);
  Result<RegionLog> read = RegionLog::load(medium, identity);
  REQUIRE(read);
  CHECK(same_marks(log, *read));
  CHECK(read->epoch() == 7);
  CHECK(read->dirty(2));
  CHECK(read->stale(1) == leg_bit(1));
  CHECK(read->sequence() == log.completed());
  CHECK(read->healed() == 0);
  CHECK(read->torn() == 0);
}

TEST_CASE("which legs a person failed is read back, and goes with the leg") {
  const LogIdentity identity = identity_of(10, 3);
  Medium medium(10);
  RegionLog log = RegionLog::create(identity, false).value();
  CHECK(log.held() == 0);
  log.set_held(1, true);
  log.set_held(2, true);
  medium.commit(log);
  CHECK_FALSE(log.pending());
  log.set_held(1, true);  // it is there already: no write
  CHECK_FALSE(log.pending());
  CHECK(RegionLog::load(medium, identity).value().held() == (leg_bit(1) | leg_bit(2)));
  log.set_role(2, Role::absent, Uuid{});
  log.set_held(1, false);
  medium.commit(log);
  CHECK(RegionLog::load(medium, identity).value().held() == 0);
}

TEST_CASE("a new mirror that is to be synchronized holds its data on the first leg only") {
  LogIdentity identity = identity_of(70, 3);
  Result<RegionLog> log = RegionLog::create(identity, true);
  REQUIRE(log);
  CHECK(log->stale_count(0) == 0);
  CHECK(log->stale_count(1) == 70);
  CHECK(log->stale_count(2) == 70);
  CHECK(log->stale_on_any(0x7) == 70);
  CHECK(RegionLog::create(identity, false)->stale_on_any(0x7) == 0);
}

TEST_CASE("each bit of the log that flips is healed, never trusted") {
  const LogIdentity identity = identity_of(5);
  Medium medium(5);
  const RegionLog log = with_marks(medium, identity);
  unsigned healed = 0;
  for (std::size_t bit = 0; bit < medium.bytes.size() * 8; ++bit) {
    const auto flip = static_cast<std::byte>(1U << (bit % 8));
    medium.bytes[bit / 8] ^= flip;
    Result<RegionLog> read = RegionLog::load(medium, identity);
    medium.bytes[bit / 8] ^= flip;
    // Each page has two copies of each generation: one bit never costs more than one of them.
    REQUIRE_MESSAGE(read, "bit " << bit);
    REQUIRE_MESSAGE(same_marks(log, *read), "bit " << bit);
    healed += read->healed();
    // Whatever it was, the next commit writes the page again.
    REQUIRE(read->pending());
  }
  CHECK(healed == medium.bytes.size() * 8);
}

TEST_CASE("a page with damage in both copies of both generations is refused") {
  const LogIdentity identity = identity_of(5);
  Medium medium(5);
  with_marks(medium, identity);
  for (const std::size_t page : {0, 1})
    for (const std::size_t at : {0, 64, 1000, 4095}) {
      Medium damaged = medium;
      for (std::size_t copy = 0; copy < 4; ++copy)
        damaged.bytes[page * 16384 + copy * 4096 + at] ^= std::byte{0x10};
      Result<RegionLog> read = RegionLog::load(damaged, identity);
      REQUIRE_FALSE(read);
      const bool no_log = page == 0 && at == 0;
      CHECK(read.code() == (no_log ? Errc::invalid : Errc::corrupt));
    }
}

TEST_CASE("a page that was lost is damage, not a clean region") {
  const LogIdentity identity = identity_of(5);
  Medium medium(5);
  with_marks(medium, identity);
  std::fill(medium.bytes.begin() + 16384, medium.bytes.end(), std::byte{});
  Result<RegionLog> read = RegionLog::load(medium, identity);
  REQUIRE_FALSE(read);
  CHECK(read.error().message == "page 1 of the mirror's log is damaged: no copy of it is whole");
}

TEST_CASE("a commit that is cut short anywhere leaves what was before it, or what it brought") {
  const LogIdentity identity = identity_of(3200);
  Medium before(3200);
  RegionLog log = with_marks(before, identity);
  Result<RegionLog> old = RegionLog::load(before, identity);
  log.set_dirty(4, true);
  log.set_dirty(3199, true);  // in the page's last sector
  log.set_stale(0, leg_bit(0), true);
  log.begin_commit();
  std::vector<LogWrite> batch;
  REQUIRE(log.next_batch(batch));
  REQUIRE(batch.size() == 2);  // two copies of one page
  for (std::size_t whole = 0; whole <= 2 * 4096; whole += 512) {
    Medium medium = before;
    for (std::size_t at = 0; at < whole; at += 512) {
      const LogWrite& w = batch[at / 4096];
      std::memcpy(medium.bytes.data() + w.offset + at % 4096, w.bytes.data() + at % 4096, 512);
    }
    Result<RegionLog> read = RegionLog::load(medium, identity);
    REQUIRE(read);
    // Whole in its first copy: the commit counts, although nobody was told.
    CHECK(same_marks(whole < 4096 ? *old : log, *read));
  }
}

TEST_CASE("after an orderly end a generation that is lost in both copies is not called torn") {
  const LogIdentity identity = identity_of(5);
  Medium medium(5);
  RegionLog log = with_marks(medium, identity);
  log.set_closed(true);
  medium.commit(log);
  REQUIRE(RegionLog::load(medium, identity));
  REQUIRE(RegionLog::load(medium, identity)->closed());
  for (const std::size_t generation : {0, 1}) {
    Medium damaged = medium;
    for (const std::size_t copy : {0, 1})
      damaged.bytes[16384 + (generation * 2 + copy) * 4096 + 100] ^= std::byte{1};
    CHECK(RegionLog::load(damaged, identity).code() == Errc::corrupt);
  }
}

TEST_CASE("a log of another mirror, size, region size or version is refused by name") {
  const LogIdentity identity = identity_of(5);
  Medium medium(5);
  with_marks(medium, identity);
  LogIdentity other = identity;
  other.mirror[0] = 9;
  CHECK(RegionLog::load(medium, other).code() == Errc::invalid);
  CHECK(RegionLog::load(medium, other).error().message.find("belongs to the mirror") !=
        std::string::npos);
  other = identity;
  other.size -= 512;
  CHECK(RegionLog::load(medium, other).code() == Errc::invalid);
  other = identity;
  other.region_size *= 2;
  CHECK(RegionLog::load(medium, other).code() == Errc::invalid);
  Medium empty(5);
  CHECK(RegionLog::load(empty, identity).error().message ==
        "there is no mirror log here: its first page has no magic");
  CHECK(RegionLog::load(empty, identity_of(4000)).code() != Errc::ok);
}

TEST_CASE("a log that says that no leg holds a region is refused") {
  const LogIdentity identity = identity_of(5);
  Medium medium(5);
  RegionLog log = with_marks(medium, identity);
  log.set_stale(3, leg_bit(0) | leg_bit(1), true);
  medium.commit(log);
  CHECK(RegionLog::load(medium, identity).error().message ==
        "page 1 of the mirror's log is damaged: it says that no leg holds region 3");
}

TEST_CASE("sizes that cannot be are refused") {
  LogIdentity identity = identity_of(5);
  identity.region_size = 3 << 20;
  CHECK(RegionLog::create(identity, false).code() == Errc::invalid);
  identity.region_size = 0;
  CHECK(RegionLog::create(identity, false).code() == Errc::invalid);
  identity = identity_of(5);
  identity.size = 0;
  CHECK(RegionLog::create(identity, false).code() == Errc::invalid);
  identity.size = 1000;
  CHECK(RegionLog::create(identity, false).code() == Errc::invalid);
  identity.size = (max_regions + 1) * 4096;
  identity.region_size = 4096;
  CHECK(RegionLog::create(identity, false).code() == Errc::limit);
}

TEST_CASE("what is marked while a commit runs goes together into the next one") {
  Medium medium(10);
  RegionLog log = RegionLog::create(identity_of(10), false).value();
  medium.commit(log);
  const RegionLog::Ticket first = log.set_dirty(1, true);
  log.begin_commit();
  const RegionLog::Ticket second = log.set_dirty(2, true);
  const RegionLog::Ticket third = log.set_stale(3, leg_bit(1), true);
  CHECK(second == first + 1);
  CHECK(third == second);
  std::vector<LogWrite> batch;
  while (log.next_batch(batch))
    for (const LogWrite& w : batch)
      medium.write(w);
  log.end_commit(true);
  CHECK(log.completed() == first);
  CHECK(log.pending());
  CHECK(medium.commit(log) == 2);  // both, in one page of two copies
  CHECK(log.completed() == second);
  CHECK_FALSE(log.pending());
}

TEST_CASE("a mark that is already there costs no write, and its ticket is past") {
  Medium medium(10);
  RegionLog log = RegionLog::create(identity_of(10), false).value();
  medium.commit(log);
  log.set_dirty(1, true);
  medium.commit(log);
  CHECK(log.set_dirty(1, true) <= log.completed());
  CHECK_FALSE(log.pending());
}

TEST_CASE("the changes of a commit that failed are in the next, under a ticket that comes") {
  const LogIdentity identity = identity_of(10);
  Medium medium(10);
  RegionLog log = RegionLog::create(identity, false).value();
  medium.commit(log);
  const RegionLog::Ticket first = log.set_dirty(1, true);
  log.begin_commit();
  const RegionLog::Ticket second = log.set_dirty(2, true);
  std::vector<LogWrite> batch;
  while (log.next_batch(batch)) {
  }
  log.end_commit(false);
  CHECK(log.completed() < first);
  CHECK(log.pending());
  medium.commit(log);
  CHECK(log.completed() >= second);
  CHECK_FALSE(log.pending());
  Result<RegionLog> read = RegionLog::load(medium, identity);
  REQUIRE(read);
  CHECK(read->dirty(1));
  CHECK(read->dirty(2));
}

TEST_CASE("a commit writes the pages that changed, however large the mirror is") {
  const std::uint64_t regions = 1 << 22;  // 16 TiB in regions of 4 MiB
  RegionLog log = RegionLog::create(identity_of(regions, 2, 4 << 20), false).value();
  Medium medium(regions);
  medium.commit(log);
  log.set_dirty(0, true);
  log.set_dirty(regions - 1, true);
  CHECK(medium.commit(log) == 4);
  CHECK(log.next_dirty(1) == regions - 1);
  CHECK(log.next_dirty(regions) == regions);
  CHECK(log.next_stale(0x3, 0) == regions);
}

TEST_CASE("the next marked region is found across words and pages") {
  RegionLog log = RegionLog::create(identity_of(10'000, 3), false).value();
  for (const std::uint64_t r : {0, 63, 64, 3199, 3200, 9999})
    log.set_stale(r, leg_bit(2), true);
  std::vector<std::uint64_t> found;
  for (std::uint64_t r = log.next_stale(leg_bit(2), 0); r < log.regions();
       r = log.next_stale(leg_bit(2), r + 1))
    found.push_back(r);
  CHECK(found == std::vector<std::uint64_t>{0, 63, 64, 3199, 3200, 9999});
  CHECK(log.next_stale(leg_bit(0) | leg_bit(1), 0) == log.regions());
  CHECK(log.stale_on_any(0x7) == 6);
  log.set_stale_everywhere(1, true);
  CHECK(log.stale_count(1) == 10'000);
  log.set_stale_everywhere(1, false);
  CHECK(log.stale_count(1) == 0);
  CHECK(log.stale_on_any(0x7) == 6);
}

TEST_CASE("a record kept in several places says which one each is") {
  const LogIdentity identity = identity_of(5);
  Medium medium(5);
  RegionLog log = with_marks(medium, identity);
  log.set_epoch(8);
  log.begin_commit();
  std::vector<LogWrite> batch;
  REQUIRE(log.next_batch(batch));
  for (const LogWrite& w : batch) {
    std::vector<std::byte> page(w.bytes.begin(), w.bytes.end());
    RegionLog::for_copy(page, 2);
    medium.write({w.offset, page});
  }
  log.end_commit(true);
  Result<RegionLog> read = RegionLog::load(medium, identity);
  REQUIRE(read);
  CHECK(read->identity().copy == 2);
  CHECK(read->epoch() == 8);
}

TEST_CASE("the newest record is sure to be that when a majority was found (B3)") {
  const RecordSeen seen[] = {{3, 10}, {4, 2}, {4, 9}};
  CHECK(newest_record(seen, 3).index == 2);
  CHECK(newest_record(seen, 3).proven);
  CHECK(newest_record({seen, 1}, 3).index == 0);
  CHECK_FALSE(newest_record({seen, 1}, 3).proven);
  CHECK_FALSE(newest_record({seen, 1}, 2).proven);
  CHECK(newest_record({seen, 2}, 3).proven);
  CHECK(newest_record({seen, 1}, 1).proven);
  CHECK_FALSE(newest_record({}, 1).proven);
}

}  // namespace
}  // namespace blockloom::mirror::test
