#include "tests/unit/mirror/rig.hpp"

namespace blockloom::mirror::test {
namespace {

using Type = Action::Type;

TEST_CASE("a leg is failed, added back, removed, and a new one added; never the last") {
  Rig rig(Rig::two_legs());
  rig.start();
  rig.feed(Event::fail_leg(rig.now, 1));
  CHECK(rig.leg(1) == LegState::fencing);
  CHECK(rig.state->may(Event::fail_leg(rig.now, 0)).code() == Errc::busy);
  rig.commit();
  rig.feed(Event::fence_ended(rig.now, 1, FenceEnd::proof));
  rig.later(3600 * second);
  CHECK(rig.leg(1) == LegState::down_fenced);
  rig.feed(Event::readd_leg(rig.now, 1));
  CHECK(rig.has(Type::open));
  rig.commit();  // not failed any more, durably
  rig.feed(Event::opened(rig.now, 1, true));
  CHECK(rig.leg(1) == LegState::up);

  rig.feed(Event::remove_leg(rig.now, 1));
  CHECK(rig.state->may(Event::remove_leg(rig.now, 0)).code() == Errc::busy);
  rig.commit();  // STALE everywhere, durably
  CHECK(rig.state->log().identity().roles[1] == Role::absent);
  rig.feed(Event::fence_ended(rig.now, 1, FenceEnd::proof));
  CHECK_FALSE(rig.has(Type::close));
  rig.commit();  // no member any more
  CHECK(rig.the(Type::close).leg == 1);
  CHECK(rig.leg(1) == LegState::absent);

  rig.feed(Event::add_leg(rig.now, 1));
  CHECK(rig.state->leg(1).stale_regions == 16);
  while (rig.state->log().committing())
    rig.commit();
  CHECK(rig.the(Type::fence).leg == 1);
  rig.fence_and_open(1);
  CHECK(rig.noticed(Notice::resync_started));
}

TEST_CASE("a leg that a person failed stays out over a restart, unless nothing goes without it") {
  Rig rig(Rig::two_legs());
  rig.start();
  rig.warm(0);
  rig.feed(Event::fail_leg(rig.now, 1));
  rig.commit();
  rig.feed(Event::fence_ended(rig.now, 1, FenceEnd::proof));
  CHECK(rig.state->leg(1).held);

  const auto restart = [&] {
    rig.make(RegionLog::load(rig.medium, rig.state->log().identity()).value());
    rig.start();
    while (rig.state->log().committing())
      rig.commit();
  };
  restart();
  CHECK(rig.state->leg(1).held);
  CHECK(rig.leg(1) == LegState::fencing);
  CHECK(rig.leg(0) == LegState::up);
  rig.feed(Event::fence_ended(rig.now, 1, FenceEnd::proof));
  rig.later(3600 * second);
  CHECK(rig.leg(1) == LegState::down_fenced);

  // Without the other one it has to serve.
  rig.make(RegionLog::load(rig.medium, rig.state->log().identity()).value());
  rig.feed(Event::start(rig.now, true));
  rig.commit();
  rig.feed(Event::fence_ended(rig.now, 0, FenceEnd::none));
  rig.fence_and_open(1);
  while (rig.state->log().committing())
    rig.commit();
  CHECK(rig.leg(1) == LegState::up);
  CHECK_FALSE(rig.state->leg(1).held);

  // And a readd is written down as well.
  restart();
  CHECK_FALSE(rig.state->leg(1).held);
  CHECK(rig.leg(1) == LegState::up);
}

}  // namespace
}  // namespace blockloom::mirror::test
