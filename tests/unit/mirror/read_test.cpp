#include "tests/unit/mirror/rig.hpp"

namespace blockloom::mirror::test {
namespace {

using Type = Action::Type;

TEST_CASE("a read goes to one leg, and its answer names the op that brought it") {
  Rig rig(Rig::two_legs());
  rig.start();
  rig.read(0, 0);
  const auto ops = rig.sends();
  REQUIRE(ops.size() == 1);
  CHECK(rig.the(Type::send).own_buffer);  // R4: it may arrive late
  rig.end(ops[0]);
  CHECK(rig.the(Type::answer).errc == Errc::ok);
  CHECK(rig.the(Type::answer).op == ops[0]);
}

TEST_CASE("the read policies: round robin, preferred, least outstanding") {
  Config config = Rig::two_legs();
  config.read_policy = ReadPolicy::round_robin;
  Rig robin(config);
  robin.start();
  robin.read(0, 0);
  const unsigned first = robin.sends()[0].leg;
  robin.read(1, 4096);
  CHECK(robin.sends()[0].leg == 1 - first);
  robin.read(2, 8192);
  CHECK(robin.sends()[0].leg == first);

  config.read_policy = ReadPolicy::preferred;
  config.preferred = 1;
  Rig preferred(config);
  preferred.start();
  for (Slot slot = 0; slot < 4; ++slot) {
    preferred.read(slot, slot * 4096);
    CHECK(preferred.sends()[0].leg == 1);
  }

  config.read_policy = ReadPolicy::least_outstanding;
  Rig least(config);
  least.start();
  least.read(0, 0);
  least.read(1, 4096);
  CHECK(least.state->leg(0).outstanding == 1);
  CHECK(least.state->leg(1).outstanding == 1);
}

TEST_CASE("a read that fails on one leg is answered from another, and the leg is STALE there") {
  Config config = Rig::two_legs();
  config.read_policy = ReadPolicy::preferred;
  Rig rig(config);
  rig.start();
  rig.read(0, 0);
  rig.end(rig.sends()[0], OpEnd::error, Errc::io);
  const auto again = rig.sends();
  REQUIRE(again.size() == 1);
  CHECK(again[0].leg == 1);
  CHECK(rig.state->region(0).stale == leg_bit(0));
  rig.end(again[0]);
  CHECK_FALSE(rig.has(Type::answer));  // R3: STALE is not durable yet
  rig.commit();
  CHECK(rig.the(Type::answer).errc == Errc::ok);
  CHECK(rig.leg(0) == LegState::up);
  CHECK(rig.state->view(rig.now).retried_reads == 1);
}

TEST_CASE("a read that no leg can answer is an error, and makes no leg STALE") {
  Rig rig(Rig::two_legs());
  rig.start(leg_bit(1));
  rig.read(0, 0);
  rig.end(rig.sends()[0], OpEnd::error, Errc::io);
  CHECK(rig.the(Type::answer).errc == Errc::io);
  CHECK(rig.state->region(0).stale == 0);
}

TEST_CASE("a leg that is slow with a read is left for another, and is out of service") {
  Config config = Rig::two_legs();
  config.legs[0].read_timeout = config.legs[1].read_timeout = 200 * millisecond;
  Rig rig(config);
  rig.start();
  rig.read(0, 0);
  const auto slow = rig.sends();
  rig.later(200 * millisecond);
  const auto fast = rig.sends();
  REQUIRE(fast.size() == 1);
  CHECK(fast[0].leg != slow[0].leg);
  CHECK(rig.leg(slow[0].leg) == LegState::suspect);
  CHECK(rig.state->region(0).stale == 0);  // a read that is late harms nothing
  rig.end(fast[0]);
  CHECK(rig.the(Type::answer).op == fast[0]);
  rig.end(slow[0]);  // fits nobody any more
  CHECK_FALSE(rig.has(Type::answer));
}

TEST_CASE("a hedged read: the second leg is asked after a while, and the loser is cancelled") {
  Config config = Rig::two_legs();
  config.hedge = 50 * millisecond;
  Rig rig(config);
  rig.start();
  rig.read(0, 0);
  const auto first = rig.sends();
  rig.later(50 * millisecond);
  const auto second_try = rig.sends();
  REQUIRE(second_try.size() == 1);
  CHECK(second_try[0].leg != first[0].leg);
  rig.end(second_try[0]);
  CHECK(rig.the(Type::answer).op == second_try[0]);
  CHECK(rig.the(Type::cancel).op == first[0]);
  CHECK(rig.state->view(rig.now).hedged_reads == 1);
  CHECK(rig.leg(first[0].leg) == LegState::up);
  // The loser is still held to its time.
  rig.later(second);
  CHECK(rig.leg(first[0].leg) == LegState::suspect);
}

TEST_CASE("a region that is STALE on a leg is not read there (R1)") {
  Rig rig(Rig::two_legs(), true);
  rig.feed(Event::pause_resync(rig.now));
  rig.start();
  for (Slot slot = 0; slot < 8; ++slot) {
    rig.read(slot, slot * region_size);
    CHECK(rig.sends()[0].leg == 0);
  }
}

}  // namespace
}  // namespace blockloom::mirror::test
