// Deadlines, late ends, fences: what dm-io never had.
#include <atomic>

#include "server/io/io_client.hpp"
#include "server/leg/remote_leg.hpp"
#include "tests/unit/io/io_test.hpp"

using namespace blockloom;
using namespace blockloom::test;
using namespace std::chrono_literals;

TEST_CASE("a region is told its TIMEOUT, and later its end") {
  auto client = make_client();
  auto manual = std::make_shared<ManualLeg>();
  auto memory = open("mem:1M");
  client->set_leg(0, memory, {});
  client->set_leg(1, manual, {});
  const Data data = noise(512);
  Notices notices;
  IoResults results;
  const std::vector regions{region(0, 0, 512), region(1, 0, 512, 20ms)};
  REQUIRE(client->submit(write_request(regions, filled(*client, data), notices), results) ==
          Submit::pending);
  auto list = notices.wait(2);
  CHECK(list[0].leg == 0);
  CHECK(list[0].state == RegionState::ok);
  CHECK(list[1].leg == 1);
  CHECK(list[1].state == RegionState::timeout);
  CHECK(list[1].status == Errc::timed_out);
  CHECK_FALSE(list[1].final);
  CHECK(client->close(Clock::now() + 60s));  // a late region does not hold the gate (I10)
  SUBCASE("which may be well") {
    REQUIRE(manual->end_one(Errc::ok));
  }
  SUBCASE("or an error") {
    REQUIRE(manual->end_one(Errc::io));
  }
  list = notices.wait(3);
  CHECK(list[2].leg == 1);
  CHECK(list[2].second);
  CHECK(list[2].final);
  CHECK((list[2].state == RegionState::ok) == (list[2].status == Errc::ok));
  CHECK(client->wait_quiet(Clock::now() + 60s));
  CHECK(client->buffers().out() == Bytes(0));
}

TEST_CASE("with a lane, what was not sent by its deadline is cancelled and never sent") {
  auto client = make_client();
  auto blocking = std::make_shared<BlockingLeg>();
  client->set_leg(0, blocking, {.lane = true, .lane_threads = 1});
  Notices sent, unsent;
  IoResults results;
  const std::vector regions{region(0, 0, 512, 20ms)};
  auto first = write_request(regions, filled(*client, Data(512)), sent);
  first.cancel_on_timeout = true;
  REQUIRE(client->submit(first, results) == Submit::pending);
  REQUIRE(blocking->wait_for_inside(1));
  auto second = write_request(regions, filled(*client, Data(512)), unsent);
  second.cancel_on_timeout = true;
  REQUIRE(client->submit(second, results) == Submit::pending);
  const auto cancelled = unsent.wait(1);
  CHECK(cancelled[0].state == RegionState::cancelled);
  CHECK(cancelled[0].final);
  const auto timed_out = sent.wait(1);
  CHECK(timed_out[0].state == RegionState::timeout);
  CHECK_FALSE(timed_out[0].final);
  blocking->let_go();
  CHECK(sent.wait(2)[1].final);
  CHECK(blocking->served() == 1);
}

TEST_CASE("without cancel-on-timeout a region in the lane times out and is still carried") {
  auto client = make_client();
  auto blocking = std::make_shared<BlockingLeg>();
  client->set_leg(0, blocking, {.lane = true, .lane_threads = 1});
  Notices a, b;
  IoResults results;
  const std::vector regions{region(0, 0, 512, 20ms)};
  REQUIRE(client->submit(write_request(regions, filled(*client, Data(512)), a), results) ==
          Submit::pending);
  REQUIRE(blocking->wait_for_inside(1));
  REQUIRE(client->submit(write_request(regions, filled(*client, Data(512)), b), results) ==
          Submit::pending);
  CHECK(b.wait(1)[0].state == RegionState::timeout);
  blocking->let_go();
  CHECK(b.wait(2)[1].state == RegionState::ok);
  CHECK(a.wait(2)[1].state == RegionState::ok);
  CHECK(blocking->served() == 2);
}

TEST_CASE("regions of one request have deadlines of their own") {
  auto client = make_client();
  auto a = std::make_shared<ManualLeg>("a"), b = std::make_shared<ManualLeg>("b");
  client->set_leg(0, a, {});
  client->set_leg(1, b, {});
  Notices notices;
  IoResults results;
  const std::vector regions{region(0, 0, 512, 60ms), region(1, 0, 512, 10ms)};
  REQUIRE(client->submit(write_request(regions, filled(*client, Data(512)), notices), results) ==
          Submit::pending);
  const auto list = notices.wait(2);
  CHECK(list[0].leg == 1);
  CHECK(list[1].leg == 0);
  while (a->end_one() || b->end_one()) {
  }
  CHECK(notices.wait(4).size() == 4);
}

TEST_CASE("past the bound of late bytes a fence is asked for, once") {
  struct Fences {
    std::atomic<int> count{0};
    std::atomic<std::uint32_t> leg{99};
  } fences;
  IoClient::Options options;
  options.owner = &fences;
  options.late_limit = [](void* owner, std::uint32_t leg) noexcept {
    auto& f = *static_cast<Fences*>(owner);
    f.leg = leg;
    ++f.count;
  };
  auto client = make_client(options);
  auto manual = std::make_shared<ManualLeg>();
  client->set_leg(3, manual, {.late_limit = Bytes(2048)});
  Notices notices;
  IoResults results;
  const std::vector regions{region(3, 0, 1024, 5ms)};
  for (int i = 0; i < 6; ++i)
    REQUIRE(client->submit(write_request(regions, filled(*client, Data(1024)), notices), results) ==
            Submit::pending);
  notices.wait(6);
  CHECK(client->late_bytes(3) == Bytes(6 * 1024));
  while (manual->end_one()) {
  }
  CHECK(client->wait_quiet(Clock::now() + 60s));
  CHECK(fences.count == 1);
  CHECK(fences.leg == 3);
  CHECK(client->late_bytes(3) == Bytes(0));
}

TEST_CASE("a leg that gives an Io up leaves it late until a fence proves its end") {
  auto client = make_client();
  auto manual = std::make_shared<ManualLeg>();
  client->set_leg(0, manual, {});
  Notices notices;
  IoResults results;
  const std::vector regions{region(0, 0, 512, 30s)};
  REQUIRE(client->submit(write_request(regions, filled(*client, Data(512)), notices), results) ==
          Submit::pending);
  REQUIRE(manual->end_one(end_unknown));
  auto list = notices.wait(1);
  CHECK(list[0].state == RegionState::timeout);
  CHECK_FALSE(list[0].final);
  CHECK(client->late(0) == 1);
  CHECK(client->fenced(0, Errc::io) == 1);
  list = notices.wait(2);
  CHECK(list[1].second);
  CHECK(list[1].state == RegionState::error);
  CHECK(client->late(0) == 0);
  CHECK(client->wait_quiet(Clock::now() + 60s));
  CHECK(client->fenced(0, Errc::io) == 0);
}

TEST_CASE("a proof that comes while the leg still has the Io ends it, and its own end is silent") {
  auto client = make_client();
  auto manual = std::make_shared<ManualLeg>();
  client->set_leg(0, manual, {});
  Notices notices;
  IoResults results;
  const std::vector regions{region(0, 0, 512)};
  REQUIRE(client->submit(write_request(regions, filled(*client, Data(512)), notices), results) ==
          Submit::pending);
  CHECK(client->fenced(0, Errc::io) == 1);
  CHECK(notices.wait(2)[1].final);
  REQUIRE(manual->end_one());
  CHECK(client->wait_quiet(Clock::now() + 60s));
  CHECK(notices.list().size() == 2);
}

TEST_CASE("what the leg proves to have no effect is cancelled, for good") {
  auto client = make_client();
  auto manual = std::make_shared<ManualLeg>();
  client->set_leg(0, manual, {});
  Notices notices;
  IoResults results;
  const std::vector regions{region(0, 0, 512)};
  REQUIRE(client->submit(write_request(regions, filled(*client, Data(512)), notices), results) ==
          Submit::pending);
  REQUIRE(manual->end_one(Errc::cancelled));
  const auto list = notices.wait(1);
  CHECK(list[0].state == RegionState::cancelled);
  CHECK(list[0].final);
}

TEST_CASE("late regions outlive the client, with their leg and their buffer") {
  auto manual = std::make_shared<ManualLeg>();
  std::weak_ptr<ManualLeg> weak = manual;
  ManualLeg* const raw = manual.get();
  Notices notices;
  {
    auto client = make_client();
    client->set_leg(0, manual, {});
    manual.reset();
    IoResults results;
    const std::vector regions{region(0, 0, 512, 5ms)};
    REQUIRE(client->submit(write_request(regions, filled(*client, Data(512)), notices), results) ==
            Submit::pending);
    CHECK(notices.wait(1)[0].state == RegionState::timeout);
  }
  REQUIRE_FALSE(weak.expired());
  {
    const auto keep = weak.lock();
    REQUIRE(raw->end_one());
  }
  CHECK(weak.expired());
  CHECK(notices.list().size() == 1);
}

TEST_CASE("a client ends with what is unresolved, and nothing stays behind") {
  std::weak_ptr<ManualLeg> weak;
  {
    auto manual = std::make_shared<ManualLeg>();
    weak = manual;
    auto client = make_client();
    client->set_leg(0, manual, {});
    Notices notices;
    IoResults results;
    const std::vector regions{region(0, 0, 512, 30s)};
    REQUIRE(client->submit(write_request(regions, filled(*client, Data(512)), notices), results) ==
            Submit::pending);
    REQUIRE(manual->end_one(end_unknown));
    notices.wait(1);
  }
  CHECK(weak.expired());
}

TEST_CASE("a leg may be replaced while something is late on the old one") {
  auto client = make_client();
  auto old = std::make_shared<ManualLeg>("old");
  client->set_leg(0, old, {});
  Notices notices;
  IoResults results;
  const std::vector regions{region(0, 0, 512, 5ms)};
  REQUIRE(client->submit(write_request(regions, filled(*client, Data(512)), notices), results) ==
          Submit::pending);
  notices.wait(1);
  auto memory = open("mem:1M");
  client->set_leg(0, memory, {});
  CHECK(client->late(0) == 0);  // the new leg's
  REQUIRE(client->out().size() == 1);
  CHECK(client->out()[0].leg == "old");
  REQUIRE(old->end_one());
  CHECK(notices.wait(2)[1].final);
}
