#include "tests/unit/mirror/rig.hpp"

namespace blockloom::mirror::test {
namespace {

using Type = Action::Type;

TEST_CASE("a start fences every leg with a new epoch before anything else (B1)") {
  Rig rig(Rig::two_legs());
  rig.feed(Event::start(rig.now));
  CHECK_FALSE(rig.has(Type::fence));
  rig.commit();
  CHECK(rig.count(Type::fence) == 2);
  rig.feed(Event::fence_ended(rig.now, 0, FenceEnd::proof));
  rig.feed(Event::opened(rig.now, 0, true));
  CHECK_FALSE(rig.has(Type::started));
  rig.feed(Event::fence_ended(rig.now, 1, FenceEnd::proof));
  rig.feed(Event::opened(rig.now, 1, true));
  CHECK(rig.the(Type::started).errc == Errc::ok);
}

TEST_CASE("a restart finds what was dirty, chooses one source, and says so durably first (B2)") {
  Rig before(Rig::two_legs());
  before.start();
  before.warm(0);
  before.warm(5 * region_size);
  Rig rig(Rig::two_legs());
  rig.medium = before.medium;
  rig.make(RegionLog::load(rig.medium, before.state->log().identity()).value());
  rig.feed(Event::start(rig.now));
  rig.commit();
  rig.fence_and_open(0);
  rig.fence_and_open(1);
  CHECK_FALSE(rig.has(Type::started));
  CHECK(rig.state->leg(1).stale_regions == 2);
  rig.commit();
  CHECK(rig.has(Type::started));
  CHECK(rig.state->leg(0).epoch > before.state->leg(1).epoch);
  CHECK(rig.the(Type::send).kind == Kind::read);  // and the resync begins by itself
}

TEST_CASE("a start without a leg: only when the others hold everything, or by force (B3)") {
  Rig before(Rig::two_legs());
  before.start(leg_bit(1));
  before.warm(0);  // only leg 0 has it now
  for (const bool force : {false, true}) {
    Rig rig(Rig::two_legs());
    rig.medium = before.medium;
    rig.make(RegionLog::load(rig.medium, before.state->log().identity()).value());
    rig.feed(Event::start(rig.now, force));
    rig.commit();
    rig.feed(Event::fence_ended(rig.now, 0, FenceEnd::none));
    rig.fence_and_open(1);
    if (force) {
      rig.commit();
      CHECK(rig.the(Type::started).errc == Errc::ok);
      CHECK(rig.state->region(0).stale == leg_bit(0));
    } else {
      CHECK(rig.the(Type::started).errc == Errc::not_found);
      CHECK(rig.the(Type::started).mask == leg_bit(0));
      CHECK(rig.state->refusal().find("is on leg 0, which is missing") != std::string::npos);
      // The leg comes after all, and it is asked again.
      rig.feed(Event::vouch_leg(rig.now, 0));
      rig.commit();
      rig.fence_and_open(0);
      rig.feed(Event::start(rig.now));
      if (!rig.has(Type::started)) rig.commit();
      CHECK(rig.the(Type::started).errc == Errc::ok);
    }
  }
  Rig other(Rig::two_legs());
  other.medium = before.medium;
  other.make(RegionLog::load(other.medium, before.state->log().identity()).value());
  other.start(leg_bit(1));  // the one that is missing has nothing of its own
  CHECK(other.state->view(other.now).phase == MirrorView::Phase::serving);
}

TEST_CASE("without a majority of the record's copies it does not start, but by force (B3)") {
  Config config = Rig::two_legs();
  config.record_proven = false;
  Rig rig(config);
  rig.feed(Event::start(rig.now));
  rig.commit();
  rig.fence_and_open(0);
  rig.fence_and_open(1);
  CHECK(rig.the(Type::started).errc == Errc::not_found);
  rig.feed(Event::start(rig.now, true));
  CHECK(rig.the(Type::started).errc == Errc::ok);
}

TEST_CASE("a lost session makes what was not flushed STALE, but never the last copy (S1)") {
  Rig rig(Rig::two_legs());
  rig.start();
  rig.warm(0);
  rig.feed(Event::submit(rig.now, 0, Kind::flush, 0, 0));
  for (const OpId op : rig.sends())
    rig.end(op);
  rig.warm(region_size);
  rig.feed(Event::leg_lost(rig.now, 1));
  CHECK(rig.state->region(0).stale == 0);           // flushed
  CHECK(rig.state->region(1).stale == leg_bit(1));  // not
  rig.feed(Event::leg_lost(rig.now, 0));
  CHECK(rig.state->region(1).stale == leg_bit(1));  // the last one keeps it
  rig.feed(Event::submit(rig.now, 0, Kind::flush, 0, 0));
  CHECK(rig.the(Type::answer).errc == Errc::io);
}

TEST_CASE(
    "what a leg acknowledges on its way out, and only it holds, cannot be flushed elsewhere") {
  Rig rig(Rig::two_legs());
  rig.start(leg_bit(1));
  rig.warm(0);
  rig.feed(Event::submit(rig.now, 0, Kind::flush, 0, 0));
  rig.end(rig.sends()[0]);
  rig.write(0, 0);
  const auto op = rig.sends();
  rig.feed(Event::leg_lost(rig.now, 0));
  rig.end(op[0]);
  CHECK(rig.the(Type::answer).errc == Errc::ok);
  rig.feed(Event::vouch_leg(rig.now, 1));
  rig.later(60 * second);
  rig.feed(Event::opened(rig.now, 1, true));
  rig.feed(Event::submit(rig.now, 0, Kind::flush, 0, 0));
  CHECK(rig.the(Type::answer).errc == Errc::io);
}

TEST_CASE("no proof, no service, until a person vouches (S2)") {
  Rig rig(Rig::two_legs());
  rig.start();
  rig.feed(Event::leg_lost(rig.now, 1));
  rig.commit();
  rig.feed(Event::fence_ended(rig.now, 1, FenceEnd::none));
  CHECK(rig.leg(1) == LegState::down_unfenced);
  rig.later(3600 * second);
  CHECK(rig.leg(1) == LegState::down_unfenced);
  CHECK_FALSE(rig.state->may(Event::vouch_leg(rig.now, 0)));
  // The word is the proof of one more fence, with an epoch of its own, as any proof is.
  rig.feed(Event::vouch_leg(rig.now, 1));
  CHECK(rig.leg(1) == LegState::fencing);
  rig.commit();
  CHECK(rig.the(Type::fence).vouched);
  rig.feed(Event::fence_ended(rig.now, 1, FenceEnd::proof));
  rig.later(60 * second);
  CHECK(rig.leg(1) == LegState::opening);
  rig.feed(Event::opened(rig.now, 1, true));
  // And of that one only.
  rig.feed(Event::leg_lost(rig.now, 1));
  rig.commit();
  CHECK_FALSE(rig.the(Type::fence).vouched);
}

TEST_CASE("a fence that cannot be had now is asked for again, with a new epoch") {
  Rig rig(Rig::two_legs());
  rig.start();
  rig.feed(Event::leg_lost(rig.now, 1));
  rig.commit();
  const std::uint64_t epoch = rig.the(Type::fence).value;
  rig.feed(Event::fence_ended(rig.now, 1, FenceEnd::retry));
  CHECK(rig.leg(1) == LegState::fencing);
  rig.now = rig.state->leg(1).retry_at;
  rig.feed(Event::tick(rig.now));
  rig.commit();
  CHECK(rig.the(Type::fence).value > epoch);
}

TEST_CASE("SUSPECT waits a while for late replies, and not at all past the cap (Z4)") {
  for (const std::uint64_t cap : {std::uint64_t{64} << 20, std::uint64_t{4095}}) {
    Config config = Rig::two_legs();
    config.legs[1].zombie_cap = cap;
    Rig rig(config);
    rig.start();
    rig.warm(0);
    rig.write(0, 0);
    rig.end(rig.sends()[0]);
    rig.later(second);
    CHECK(rig.leg(1) == (cap > 4096 ? LegState::suspect : LegState::fencing));
    rig.later(config.legs[1].fence_delay);
    CHECK(rig.leg(1) == LegState::fencing);
  }
}

TEST_CASE("a leg that is back gets what it missed, flushed and durable, and then serves (C4)") {
  Rig rig(Rig::two_legs());
  rig.start();
  rig.warm(0);
  rig.feed(Event::leg_lost(rig.now, 1));
  rig.commit();
  rig.fence_and_open(1);
  CHECK(rig.noticed(Notice::resync_started));
  const auto copy_read = rig.sends();
  REQUIRE(copy_read.size() == 1);
  CHECK(copy_read[0].leg == 0);
  CHECK(rig.state->region(0).copying == leg_bit(1));
  CHECK(rig.write(3, 0).empty());  // C2: under the lock
  rig.end(copy_read[0]);
  const auto copy_write = rig.sends();
  REQUIRE(copy_write.size() == 1);
  CHECK(copy_write[0].leg == 1);
  rig.end(copy_write[0]);
  std::vector<OpId> flushes;
  std::vector<OpId> writes;
  for (const Action& a : rig.actions)
    if (a.type == Type::send) (a.kind == Kind::flush ? flushes : writes).push_back(a.op);
  CHECK(writes.size() == 2);  // H9: the write that waited goes to the leg as well
  REQUIRE(flushes.size() == 2);
  for (const OpId op : writes)
    rig.end(op);
  CHECK(rig.the(Type::answer).errc == Errc::ok);
  for (const OpId op : flushes)
    rig.end(op);
  CHECK(rig.state->region(0).stale == leg_bit(1));
  CHECK(rig.has(Type::commit));
  rig.commit();
  CHECK(rig.state->region(0).stale == 0);
  CHECK(rig.noticed(Notice::leg_in_sync));
  CHECK(rig.noticed(Notice::resync_finished));
}

TEST_CASE("dirty is cleared one to two delays after the last write, flushed first (F1)") {
  Rig rig(Rig::two_legs());
  rig.start();
  rig.warm(0);
  bool flushed = false;
  for (int i = 0; i < 4 && rig.state->log().dirty(0); ++i) {
    rig.later(rig.config.clean_delay);
    for (const OpId op : rig.sends()) {
      flushed = true;
      rig.end(op);
    }
  }
  CHECK(flushed);
  CHECK_FALSE(rig.state->log().dirty(0));
  rig.commit();
  rig.later(3600 * second);
  CHECK(rig.actions.empty());  // and then there is nothing to do
  CHECK(rig.state->next_deadline() == never);
}

TEST_CASE("the originator's flush goes to every leg, and a leg that fails it is behind (F2)") {
  Rig rig(Rig::two_legs());
  rig.start();
  rig.warm(0);
  rig.feed(Event::submit(rig.now, 0, Kind::flush, 0, 0));
  const auto ops = rig.sends();
  REQUIRE(ops.size() == 2);
  rig.end(ops[0]);
  rig.end(ops[1], OpEnd::error, Errc::io);
  CHECK(rig.state->region(0).stale == leg_bit(1));
  CHECK_FALSE(rig.has(Type::answer));
  rig.commit();
  CHECK(rig.the(Type::answer).errc == Errc::ok);
}

TEST_CASE("suspend ends what the machine does by itself, and what waits for a leg (I10)") {
  Rig rig(Rig::two_legs(), true);
  rig.start();
  const auto copying = rig.state->leg(0).outstanding;
  CHECK(copying == 1);
  rig.feed(Event::suspend(rig.now));
  CHECK_FALSE(rig.has(Type::quiesced));
  rig.end({0, 0, 0});
  if (!rig.has(Type::quiesced))
    for (const OpId op : rig.sends())
      rig.end(op);
  CHECK(rig.has(Type::quiesced));
  rig.later(3600 * second);
  CHECK(rig.actions.empty());
  rig.feed(Event::resume(rig.now));
  CHECK(rig.sends().size() == 1);
}

TEST_CASE("an orderly end leaves a closed record, after which nothing has to be copied") {
  Rig rig(Rig::two_legs());
  rig.start();
  rig.warm(0);
  rig.feed(Event::suspend(rig.now));
  REQUIRE(rig.has(Type::quiesced));
  rig.feed(Event::stop(rig.now));
  for (const OpId op : rig.sends())
    rig.end(op);
  rig.commit();
  CHECK(rig.the(Type::stopped).errc == Errc::ok);
  Result<RegionLog> log = RegionLog::load(rig.medium, rig.state->log().identity());
  REQUIRE(log);
  CHECK(log->closed());
  CHECK(log->dirty_count() == 0);
}

TEST_CASE("a scrub lists what differs, and repairs it through a resync") {
  Rig rig(Rig::two_legs(second, 2));
  rig.start();
  rig.feed(Event::start_scrub(rig.now, Scrub::repair));
  for (int region = 0; region < 2; ++region) {
    const auto reads = rig.sends();
    REQUIRE(reads.size() == 2);
    rig.end(reads[0]);
    rig.end(reads[1]);
    const Action compare = rig.the(Type::compare);
    CHECK(compare.mask == (leg_bit(0) | leg_bit(1)));
    rig.feed(Event::compared(rig.now, compare.slot, region == 1 ? leg_bit(1) : 0));
    if (region == 0 && rig.sends().empty()) rig.later(second);
  }
  REQUIRE(rig.state->mismatches().size() == 1);
  CHECK(rig.state->mismatches()[0].offset == region_size);
  CHECK(rig.state->region(1).stale == leg_bit(1));
  CHECK(rig.noticed(Notice::scrub_mismatch));
}

TEST_CASE("configurations that make no sense are refused with a sentence") {
  const auto message = [](Config config) {
    const LogIdentity identity = identity_of(16, 2, region_size);
    Result<std::unique_ptr<State>> made =
        State::create(config, RegionLog::create(identity, false).value());
    return made ? std::string() : made.error().message;
  };
  CHECK(message(Rig::two_legs()).empty());
  Config config = Rig::two_legs();
  config.min_acks = 3;
  CHECK(message(config) == "min_acks 3: expected 1 to 2, the number of legs");
  config = Rig::two_legs();
  config.legs.resize(3);
  CHECK(message(config) == "leg 2 is there, but its log says that it is not there");
  config = Rig::two_legs();
  config.size *= 2;
  CHECK(message(config).find("its log is of") != std::string::npos);
  config = Rig::two_legs();
  config.copies = 9;
  CHECK(message(config) == "9 copies at a time: expected 1 to 8");
}

}  // namespace
}  // namespace blockloom::mirror::test
