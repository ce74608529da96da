#include "tests/unit/mirror/rig.hpp"

namespace blockloom::mirror::test {
namespace {

using Type = Action::Type;

TEST_CASE("a region is durably dirty before the first send, and the second write waits no more") {
  Rig rig(Rig::two_legs());
  rig.start();
  rig.write(0, 0);
  CHECK_FALSE(rig.has(Type::send));  // W3
  CHECK(rig.has(Type::commit));
  rig.write(1, 8192);
  CHECK(rig.actions.empty());  // takes part in the same commit
  rig.commit();
  CHECK(rig.sends().size() == 4);
  CHECK(rig.state->log().dirty(0));
  rig.write(2, 16384);
  CHECK(rig.sends().size() == 2);
  CHECK_FALSE(rig.has(Type::commit));
}

TEST_CASE("a write is answered when every leg has it, by the long way and the short") {
  Rig rig(Rig::two_legs());
  rig.start();
  rig.warm(0);
  rig.write(0, 0);
  const auto ops = rig.sends();
  REQUIRE(ops.size() == 2);
  CHECK_FALSE(rig.end(ops[1]).size());
  rig.end(ops[0]);
  CHECK(rig.the(Type::answer).errc == Errc::ok);
  CHECK_FALSE(rig.the(Type::answer).keep);
  rig.write(0, 0);
  const std::uint64_t serial = rig.the(Type::send).value;
  rig.feed(Event::all_ok(rig.now, 0, serial));
  CHECK(rig.the(Type::answer).errc == Errc::ok);
  rig.feed(Event::all_ok(rig.now, 0, serial));
  CHECK(rig.actions.empty());
}

TEST_CASE("overlapping requests wait for each other in order, others do not (W1, R2)") {
  Rig rig(Rig::two_legs());
  rig.start();
  rig.warm(0);
  rig.write(0, 0, 8192);
  const auto first = rig.sends();
  CHECK(rig.write(1, 4096).empty());
  CHECK(rig.read(2, 4096).empty());
  rig.write(3, 8192);
  const auto beside = rig.sends();
  CHECK(beside.size() == 2);
  rig.end(first[0]);
  rig.end(first[1]);
  CHECK(rig.the(Type::answer).slot == 0);
  const auto second = rig.sends();
  REQUIRE(second.size() == 2);
  CHECK(rig.the(Type::send).slot == 1);
  rig.end(second[0]);
  rig.end(second[1]);
  CHECK(rig.the(Type::send).slot == 2);
  CHECK(rig.the(Type::send).kind == Kind::read);
}

TEST_CASE("a leg that is late is STALE, durably, before the write is answered (W5, W6)") {
  Rig rig(Rig::two_legs());
  rig.start();
  rig.warm(0);
  rig.write(0, 0);
  const auto ops = rig.sends();
  rig.end(ops[0]);
  CHECK(rig.state->next_deadline() <= rig.now + second);
  rig.later(second);
  CHECK(rig.noticed(Notice::leg_slow));
  CHECK(rig.the(Type::cancel).op == ops[1]);
  CHECK(rig.has(Type::commit));
  CHECK_FALSE(rig.has(Type::answer));
  CHECK(rig.leg(1) == LegState::suspect);
  CHECK(rig.state->region(0).zombies == leg_bit(1));
  rig.commit();
  CHECK(rig.the(Type::answer).errc == Errc::ok);
  CHECK(rig.state->log().stale(0) == leg_bit(1));
  CHECK(rig.state->leg(1).zombies == 1);
  // Z2: the late end lowers z; STALE stays. Nothing is out any more, so the leg is fenced.
  rig.end(ops[1]);
  CHECK(rig.state->leg(1).zombies == 0);
  CHECK(rig.state->region(0).zombies == 0);
  CHECK(rig.state->region(0).stale == leg_bit(1));
  CHECK(rig.leg(1) == LegState::fencing);
}

TEST_CASE("when one op of a leg is late, nobody waits for its others any more") {
  Rig rig(Rig::two_legs());
  rig.start();
  rig.warm(0);
  rig.write(0, 0);
  rig.end(rig.sends()[0]);
  rig.now += 900 * millisecond;
  rig.write(1, 8192);
  rig.end(rig.sends()[0]);
  rig.later(100 * millisecond);
  rig.commit();
  CHECK(rig.count(Type::answer) == 2);
}

TEST_CASE("the last leg in sync gets as long again; then an error, and the range stays locked") {
  Rig rig(Rig::two_legs());
  rig.start();
  rig.warm(0);
  rig.write(0, 0);
  const auto ops = rig.sends();
  rig.later(second);  // both are late: the first to be asked is STALE, the other is the last
  rig.commit();
  CHECK_FALSE(rig.has(Type::answer));
  const unsigned last = rig.leg(0) == LegState::up ? 0 : 1;
  CHECK(rig.state->region(0).stale == leg_bit(1 - last));  // I5
  rig.later(second);
  CHECK(rig.noticed(Notice::hard_limit));
  CHECK(rig.the(Type::answer).errc == Errc::timed_out);
  CHECK(rig.the(Type::answer).keep);
  CHECK(rig.state->region(0).stale == leg_bit(1 - last));
  CHECK(rig.state->region(0).users == 1);
  // Its end frees the range and the slot.
  rig.end(ops[last]);
  CHECK(rig.the(Type::free_slot).slot == 0);
  CHECK(rig.state->region(0).users == 0);
}

TEST_CASE("who waits for a range that stays locked waits a bounded time") {
  Rig rig(Rig::two_legs());
  rig.start(leg_bit(1));
  rig.warm(0);
  rig.write(0, 0);
  rig.later(second);
  rig.later(second);
  REQUIRE(rig.the(Type::answer).keep);
  CHECK(rig.read(1, 0).empty());
  rig.later(rig.config.log_timeout);
  CHECK_FALSE(rig.has(Type::answer));
  rig.later(rig.config.log_timeout + 4 * second);
  CHECK(rig.the(Type::answer).slot == 1);
  CHECK(rig.the(Type::answer).errc == Errc::timed_out);
  CHECK(rig.state->region(0).users == 1);
}

TEST_CASE("a leg that fails a write is STALE there, fenced, and opened again after a pause") {
  Rig rig(Rig::two_legs());
  rig.start();
  rig.warm(0);
  rig.write(0, 0);
  const auto ops = rig.sends();
  rig.end(ops[1], OpEnd::error, Errc::no_space);
  CHECK(rig.leg(1) == LegState::fencing);
  CHECK(rig.state->leg(1).last_error == Errc::no_space);
  CHECK_FALSE(rig.has(Type::fence));  // its epoch has to be durable first
  const std::uint64_t epoch = rig.state->leg(1).epoch;
  rig.end(ops[0]);
  CHECK_FALSE(rig.has(Type::answer));
  rig.commit();
  CHECK(rig.the(Type::answer).errc == Errc::ok);
  CHECK(rig.the(Type::fence).leg == 1);
  CHECK(rig.the(Type::fence).value == epoch);
  CHECK(rig.state->log().epoch() == epoch);
  rig.feed(Event::fence_ended(rig.now, 1, FenceEnd::proof));
  CHECK(rig.leg(1) == LegState::down_fenced);
  CHECK_FALSE(rig.has(Type::open));
  rig.later(2 * second);
  CHECK(rig.the(Type::open).value == epoch);
}

TEST_CASE("the last leg's error is the originator's, and makes nothing STALE") {
  Rig rig(Rig::two_legs());
  rig.start(leg_bit(1));
  rig.warm(0);
  rig.write(0, 0);
  REQUIRE(rig.sends().size() == 1);
  rig.end(rig.sends()[0], OpEnd::error, Errc::no_space);
  CHECK(rig.the(Type::answer).errc == Errc::no_space);
  CHECK(rig.leg(0) == LegState::up);
  CHECK(rig.state->region(0).stale == leg_bit(1));
}

TEST_CASE("a leg that is down is left out of a write, and durably STALE before the answer (W4)") {
  Rig rig(Rig::two_legs());
  rig.start(leg_bit(1));
  rig.write(0, 0);
  CHECK(rig.has(Type::commit));
  rig.commit();
  CHECK(rig.state->log().stale(0) == leg_bit(1));
  CHECK(rig.state->log().stale(1) == 0);
  rig.end(rig.sends()[0]);
  CHECK(rig.the(Type::answer).errc == Errc::ok);
  CHECK(rig.state->view(rig.now).degraded_writes == 1);
}

TEST_CASE("min_acks: fewer legs than that, and the write fails") {
  Config config = Rig::two_legs();
  config.min_acks = 2;
  Rig rig(config);
  rig.start();
  rig.warm(0);
  rig.write(0, 0);
  const auto ops = rig.sends();
  rig.end(ops[0]);
  rig.end(ops[1], OpEnd::error, Errc::io);
  CHECK(rig.the(Type::answer).errc == Errc::io);
  rig.commit();
  rig.write(0, 0);
  CHECK(rig.the(Type::answer).errc == Errc::io);
  CHECK(rig.noticed(Notice::all_failed));
}

TEST_CASE("no leg left: an error, or a bounded wait that ends with the leg or with its time") {
  Config config = Rig::two_legs();
  config.on_all_failed = OnAllFailed::queue;
  config.queue_limit = 2;
  config.queue_timeout = 5 * second;
  Rig rig(config);
  rig.start();
  rig.warm(0);
  rig.feed(Event::leg_lost(rig.now, 0));
  rig.feed(Event::leg_lost(rig.now, 1));
  CHECK(rig.write(0, 0).size() == 1);  // the notice
  CHECK(rig.write(1, 8192).empty());
  rig.write(2, 16384);
  CHECK(rig.the(Type::answer).errc == Errc::io);  // the third is one too many
  rig.commit();
  if (rig.state->log().committing()) rig.commit();
  rig.feed(Event::fence_ended(rig.now, 1, FenceEnd::none));
  rig.fence_and_open(0);
  if (rig.state->log().committing()) rig.commit();
  const bool sent = rig.has(Type::send) || rig.state->leg(0).outstanding > 0;
  CHECK(sent == (rig.state->region(0).stale == leg_bit(1)));
  rig.later(6 * second);
  CHECK(rig.state->view(rig.now).waiting_for_leg == 0);
}

TEST_CASE(
    "with on_all_failed=queue the last leg's error is a pause, and the write is tried again") {
  Config config = Rig::two_legs();
  config.on_all_failed = OnAllFailed::queue;
  Rig rig(config);
  rig.start(leg_bit(1));
  rig.warm(0);
  rig.write(0, 0);
  rig.end(rig.sends()[0], OpEnd::error, Errc::no_space);
  CHECK_FALSE(rig.has(Type::answer));
  const MirrorView waiting = rig.state->view(rig.now);
  CHECK(waiting.waiting_for_leg == 1);
  CHECK(waiting.waiting_flushes == 0);
  CHECK(waiting.waiting_error == Errc::no_space);
  CHECK(waiting.waiting_offset == 0);
  CHECK(waiting.waiting_until == rig.now + config.queue_timeout);
  CHECK(rig.state->leg(0).unflushed_only_here);
  rig.feed(Event::submit(rig.now, 1, Kind::flush, 0, 0));
  CHECK(rig.state->view(rig.now).waiting_flushes == 1);
  CHECK(rig.state->region(0).stale == leg_bit(1));
  rig.commit();
  rig.fence_and_open(0);
  REQUIRE(rig.sends().size() >= 1);
  rig.end(rig.sends()[0]);
  CHECK(rig.the(Type::answer).errc == Errc::ok);
}

TEST_CASE("who waits for a leg gives the range back, so that the copy it waits for can pass") {
  Config config = Rig::two_legs();
  config.on_all_failed = OnAllFailed::queue;
  config.min_acks = 2;
  Rig rig(config);
  rig.start();
  rig.warm(0);
  rig.feed(Event::leg_lost(rig.now, 1));
  rig.commit();
  rig.write(0, 0);
  CHECK_FALSE(rig.has(Type::answer));
  CHECK(rig.state->view(rig.now).waiting_for_leg == 1);
  CHECK(rig.state->region(0).users == 0);
  rig.read(1, 0);  // what can be served is
  REQUIRE(rig.sends().size() == 1);
  rig.end(rig.sends()[0]);
  CHECK(rig.the(Type::answer).errc == Errc::ok);

  rig.fence_and_open(1);
  const auto copy_read = rig.sends();
  REQUIRE(copy_read.size() == 1);
  CHECK(copy_read[0].leg == 0);
  rig.end(copy_read[0]);
  const auto copy_write = rig.sends();
  REQUIRE(copy_write.size() == 1);
  CHECK(copy_write[0].leg == 1);
  rig.end(copy_write[0]);
  const auto flushes = rig.sends();
  REQUIRE(flushes.size() == 2);
  for (const OpId op : flushes)
    rig.end(op);
  rig.commit();  // in sync: there are two legs again, and the write goes on
  const auto write = rig.sends();
  REQUIRE(write.size() == 2);
  for (const OpId op : write)
    rig.end(op);
  CHECK(rig.the(Type::answer).errc == Errc::ok);
}

TEST_CASE("who waits for a leg keeps the range while an op of its own may land there (W5)") {
  Config config = Rig::two_legs();
  config.on_all_failed = OnAllFailed::queue;
  config.queue_timeout = 3600 * second;
  Rig rig(config);
  rig.start(leg_bit(1));
  rig.warm(0);
  rig.write(0, 0);
  const OpId late = rig.sends()[0];
  rig.end(late, OpEnd::unknown, Errc::io);
  CHECK_FALSE(rig.has(Type::answer));
  CHECK(rig.state->view(rig.now).waiting_for_leg == 1);
  CHECK(rig.state->region(0).users == 1);
  rig.write(1, 0);
  CHECK(rig.state->region(0).users == 2);
  rig.commit();
  // The proof ends the late one; both wait for the leg then, and go in their order.
  rig.fence_and_open(0);
  REQUIRE(rig.sends().size() == 1);
  rig.end(rig.sends()[0]);
  CHECK(rig.the(Type::answer).errc == Errc::ok);
  REQUIRE(rig.sends().size() == 1);
  rig.end(rig.sends()[0]);
  CHECK(rig.the(Type::answer).errc == Errc::ok);
  CHECK(rig.state->region(0).users == 0);
}

TEST_CASE("a request that was not sent yet can be cancelled, others go on (Z3)") {
  Rig rig(Rig::two_legs());
  rig.start();
  rig.write(0, 0);
  rig.feed(Event::cancel(rig.now, 0));
  CHECK(rig.the(Type::answer).errc == Errc::cancelled);
  rig.commit();
  CHECK_FALSE(rig.has(Type::send));
  rig.write(0, 0);
  CHECK(rig.sends().size() == 2);
  CHECK(rig.feed(Event::cancel(rig.now, 0)).empty());
}

TEST_CASE("a log that fails lets requests wait for it, bounded, and is tried again") {
  Config config = Rig::two_legs();
  config.log_timeout = 3 * second;
  Rig rig(config);
  rig.start();
  rig.write(0, 0);
  rig.commit(false);
  CHECK(rig.noticed(Notice::log_failed));
  CHECK(rig.state->view(rig.now).log_failing);
  CHECK_FALSE(rig.has(Type::commit));
  rig.later(second);
  CHECK(rig.has(Type::commit));
  rig.commit(false);
  rig.later(2 * second);
  CHECK(rig.the(Type::answer).errc == Errc::timed_out);
  rig.commit();
  CHECK(rig.noticed(Notice::log_recovered));
  rig.write(0, 0);
  CHECK(rig.sends().size() == 2);
}

TEST_CASE("a request that told no time waits its time for the log, however old the clock was") {
  Rig rig(Rig::two_legs(0));
  rig.start();
  rig.feed(Event::submit(0, 0, Kind::write, 0, 4096));
  CHECK(rig.has(Type::commit));
  CHECK(rig.state->next_deadline() <= rig.now);
  rig.later(3600 * second);  // so late was it really
  CHECK_FALSE(rig.has(Type::answer));
  CHECK(rig.state->next_deadline() <= rig.now + rig.config.log_timeout);
  rig.later(rig.config.log_timeout);
  CHECK(rig.the(Type::answer).errc == Errc::timed_out);
  rig.commit();
  rig.feed(Event::submit(0, 0, Kind::write, region_size, 4096));
  rig.later(3600 * second);
  rig.commit();
  CHECK(rig.sends().size() == 2);
}

TEST_CASE("unbounded legs need no clock") {
  Rig rig(Rig::two_legs(0));
  rig.start();
  rig.warm(0);
  rig.state->on(Event::submit(0, 0, Kind::write, 0, 4096), rig.actions);
  CHECK_FALSE(rig.the(Type::send).own_buffer);
  CHECK(rig.leg(0) == LegState::up);
}

}  // namespace
}  // namespace blockloom::mirror::test
