#include "server/io/io_client.hpp"

#include <algorithm>
#include <array>

#include "tests/unit/io/io_test.hpp"

using namespace blockloom;
using namespace blockloom::test;
using namespace std::chrono_literals;

TEST_CASE("local legs without deadlines are written inside the call") {
  auto client = make_client();
  auto a = open("mem:1M"), b = open("mem:1M");
  client->set_leg(0, a, {});
  client->set_leg(1, b, {});
  Data data = noise(4096);
  Notices notices;
  IoRequest request;
  request.op = Op::write;
  request.data = data.data();
  const std::array regions{region(0, 4096, 4096), region(1, 8192, 4096)};
  request.regions = regions;
  request.notify = Notices::notify;
  request.context = &notices;
  IoResults results;
  IoHandle handle{1, 1};
  CHECK(client->submit(request, results, &handle) == Submit::done);
  CHECK_FALSE(handle);
  CHECK(results.states[0] == RegionState::ok);
  CHECK(results.states[1] == RegionState::ok);
  CHECK(notices.list().empty());
  CHECK(read(*a, 4096, 4096) == data);
  CHECK(read(*b, 8192, 4096) == data);
}

TEST_CASE("an error on one leg is that leg's alone") {
  auto client = make_client();
  client->set_leg(0, open("mem:1M"), {});
  client->set_leg(1, open("fault:[write=error:ENOSPC]:mem:1M"), {});
  Notices notices;
  const std::vector regions{region(0, 0, 512), region(1, 0, 512)};
  IoResults results;
  const auto request = write_request(regions, filled(*client, noise(512)), notices);
  REQUIRE(client->submit(request, results) == Submit::pending);
  const auto list = notices.wait(2);
  for (const IoNotice& notice : list) {
    CHECK(notice.final);
    CHECK_FALSE(notice.second);
    CHECK(notice.state == (notice.leg == 0 ? RegionState::ok : RegionState::error));
    CHECK(notice.status == (notice.leg == 0 ? Errc::ok : Errc::no_space));
  }
}

TEST_CASE("an asynchronous leg and one with a lane run while the caller writes the third") {
  auto client = make_client();
  auto manual = std::make_shared<ManualLeg>();
  auto laned = open("mem:1M"), here = open("mem:1M");
  client->set_leg(0, here, {});
  client->set_leg(1, manual, {});
  client->set_leg(2, laned, {.lane = true});
  const Data data = noise(2048);
  Notices notices;
  const std::vector regions{region(0, 0, 2048), region(1, 0, 2048), region(2, 512, 2048, 30s)};
  IoResults results;
  IoHandle handle;
  REQUIRE(client->submit(write_request(regions, filled(*client, data), notices), results,
                         &handle) == Submit::pending);
  CHECK(handle);
  CHECK(manual->held() == 1);
  CHECK(read(*here, 0, 2048) == data);
  auto list = notices.wait(2);
  CHECK(std::none_of(list.begin(), list.end(), [](const auto& n) { return n.leg == 1; }));
  CHECK(client->pending(1) == 1);
  REQUIRE(manual->end_one());
  list = notices.wait(3);
  CHECK(std::all_of(list.begin(), list.end(), [&](const auto& n) { return n.handle == handle; }));
  CHECK(read(*laned, 512, 2048) == data);
  CHECK(client->wait_quiet(Clock::now() + 60s));
  CHECK(client->buffers().out() == Bytes(0));
}

TEST_CASE("the synchronous form waits for all") {
  auto client = make_client();
  client->set_leg(0, open("fault:[write=delay:20ms]:mem:1M"), {});
  client->set_leg(1, open("mem:1M"), {.lane = true});
  const std::array regions{region(0, 0, 512, 30s), region(1, 0, 512, 30s)};
  IoRequest request;
  request.op = Op::write;
  request.regions = regions;
  request.buffer = filled(*client, noise(512));
  const IoResults results = client->run(request);
  CHECK(results.states[0] == RegionState::ok);
  CHECK(results.states[1] == RegionState::ok);
}

TEST_CASE("the synchronous form returns at the deadline, and the late end tells nobody") {
  auto client = make_client();
  auto manual = std::make_shared<ManualLeg>();
  client->set_leg(0, manual, {});
  const std::array regions{region(0, 0, 512, 20ms)};
  IoRequest request;
  request.op = Op::write;
  request.regions = regions;
  request.buffer = filled(*client, noise(512));
  const IoResults results = client->run(request);
  CHECK(results.states[0] == RegionState::timeout);
  CHECK(results.status[0] == Errc::timed_out);
  request.buffer.reset();
  CHECK(client->buffers().out() == Bytes(4096));  // the leg still reads it (W2)
  REQUIRE(manual->end_one());
  CHECK(client->wait_quiet(Clock::now() + 60s));
  CHECK(client->buffers().out() == Bytes(0));
}

TEST_CASE("what cannot be taken is refused, with every region cancelled") {
  auto client = make_client({.requests = 1, .most_requests = 64});
  auto manual = std::make_shared<ManualLeg>();
  client->set_leg(0, manual, {});
  Notices notices;
  IoResults results;
  Data data(512);
  auto submit = [&](const std::vector<IoRegion>& regions, IoBufferRef buffer) {
    return client->submit(write_request(regions, std::move(buffer), notices), results);
  };
  SUBCASE("a place without a leg") {
    CHECK(submit({region(1, 0, 512)}, filled(*client, data)) == Submit::done);
    CHECK(results.status[0] == Errc::invalid);
  }
  SUBCASE("a place that does not exist") {
    CHECK(submit({region(9, 0, 512)}, filled(*client, data)) == Submit::done);
    CHECK(results.status[0] == Errc::invalid);
  }
  SUBCASE("a leg twice") {
    CHECK(submit({region(0, 0, 512), region(0, 512, 512)}, filled(*client, data)) == Submit::done);
    CHECK(results.status[1] == Errc::invalid);
  }
  SUBCASE("a deadline over the submitter's own memory") {
    IoRequest request;
    request.op = Op::write;
    request.data = data.data();
    const std::array regions{region(0, 0, 512, 1s)};
    request.regions = regions;
    CHECK(client->submit(request, results) == Submit::done);
    CHECK(results.states[0] == RegionState::cancelled);
    CHECK(results.status[0] == Errc::invalid);
  }
  SUBCASE("more requests than the client has") {
    for (int i = 0; i < 64; ++i)
      REQUIRE(submit({region(0, 0, 512)}, filled(*client, data)) == Submit::pending);
    CHECK(submit({region(0, 0, 512)}, filled(*client, data)) == Submit::done);
    CHECK(results.status[0] == Errc::limit);
  }
  SUBCASE("after close") {
    CHECK(client->close(Clock::now() + 60s));
    CHECK(submit({region(0, 0, 512)}, filled(*client, data)) == Submit::done);
    CHECK(results.status[0] == Errc::shutdown);
    client->open();
    CHECK(submit({region(0, 0, 512)}, filled(*client, data)) == Submit::pending);
  }
  while (manual->end_one()) {
  }
  CHECK(client->wait_quiet(Clock::now() + 60s));
}

TEST_CASE("a handle names nothing after its request, also when its slot is used again") {
  auto client = make_client({.requests = 1, .most_requests = 1});
  auto manual = std::make_shared<ManualLeg>();
  client->set_leg(0, manual, {});
  Notices notices;
  IoResults results;
  std::vector<IoHandle> handles;
  for (int i = 0; i < 200; ++i) {
    IoHandle handle;
    const std::vector regions{region(0, 0, 512)};
    REQUIRE(client->submit(write_request(regions, filled(*client, Data(512)), notices), results,
                           &handle) == Submit::pending);
    CHECK(std::find(handles.begin(), handles.end(), handle) == handles.end());
    handles.push_back(handle);
    REQUIRE(manual->end_one());
    CHECK_FALSE(client->cancel(handle));
  }
  CHECK_FALSE(client->cancel({}));
  CHECK_FALSE(client->cancel({12345, 1}));
}

TEST_CASE("a cancelled region that was not sent is over, one that was sent ends later") {
  auto client = make_client();
  auto blocking = std::make_shared<BlockingLeg>();
  client->set_leg(0, blocking, {.lane = true, .lane_threads = 1});
  Notices sent, unsent;
  IoResults results;
  IoHandle first, second;
  const std::vector regions{region(0, 0, 512)};
  REQUIRE(client->submit(write_request(regions, filled(*client, Data(512)), sent), results,
                         &first) == Submit::pending);
  REQUIRE(blocking->wait_for_inside(1));
  REQUIRE(client->submit(write_request(regions, filled(*client, Data(512)), unsent), results,
                         &second) == Submit::pending);
  CHECK(client->cancel(second));
  CHECK(client->cancel(first));
  auto list = unsent.wait(1);
  CHECK(list[0].state == RegionState::cancelled);
  CHECK(list[0].final);
  list = sent.wait(1);
  CHECK(list[0].state == RegionState::cancelled);
  CHECK_FALSE(list[0].final);
  CHECK(client->late(0) == 1);
  CHECK(client->late_bytes(0) == Bytes(512));
  blocking->let_go();
  list = sent.wait(2);
  CHECK(list[1].second);
  CHECK(list[1].final);
  CHECK(list[1].state == RegionState::ok);
  CHECK(client->wait_quiet(Clock::now() + 60s));
  CHECK(client->late(0) == 0);
  CHECK(unsent.list().size() == 1);
}

TEST_CASE("cancelling a leg leaves the others alone") {
  auto client = make_client();
  auto a = std::make_shared<ManualLeg>("a"), b = std::make_shared<ManualLeg>("b");
  client->set_leg(0, a, {});
  client->set_leg(1, b, {});
  Notices notices;
  IoResults results;
  const std::vector both{region(0, 0, 512), region(1, 0, 512)};
  for (int i = 0; i < 3; ++i)
    REQUIRE(client->submit(write_request(both, filled(*client, Data(512)), notices), results) ==
            Submit::pending);
  CHECK(client->cancel_leg(1) == 3);
  CHECK(client->cancel_leg(1) == 0);
  const auto list = notices.wait(3);
  CHECK(std::all_of(list.begin(), list.end(), [](const auto& n) {
    return n.leg == 1 && n.state == RegionState::cancelled && !n.final;
  }));
  CHECK(client->pending(0) == 3);
  while (a->end_one() || b->end_one()) {
  }
  CHECK(notices.wait(9).size() == 9);
}

TEST_CASE("a flush and an error travel like a write") {
  auto client = make_client();
  client->set_leg(0, open("fault:[flush=error]:mem:1M"), {.lane = true});
  Notices notices;
  IoRequest request;
  request.op = Op::flush;
  const std::array regions{region(0, 0, 0, 30s)};
  request.regions = regions;
  request.notify = Notices::notify;
  request.context = &notices;
  IoResults results;
  REQUIRE(client->submit(request, results) == Submit::pending);
  CHECK(notices.wait(1)[0].status == Errc::io);
}

TEST_CASE("the gate names what is out") {
  auto client = make_client();
  auto manual = std::make_shared<ManualLeg>("nbd://far/away");
  client->set_leg(0, manual, {});
  Notices notices;
  IoResults results;
  const std::vector regions{region(0, 1024, 512)};
  REQUIRE(client->submit(write_request(regions, filled(*client, Data(512)), notices), results) ==
          Submit::pending);
  CHECK_FALSE(client->close(Clock::now() + 10ms));
  const auto out = client->out();
  REQUIRE(out.size() == 1);
  CHECK(out[0].leg == "nbd://far/away");
  CHECK(out[0].op == Op::write);
  CHECK(out[0].offset == Bytes(1024));
  CHECK(out[0].length == Bytes(512));
  CHECK(out[0].age >= 10ms);
  CHECK(out[0].state == RegionState::pending);
  REQUIRE(manual->end_one());
  CHECK(client->close(Clock::now() + 60s));
  CHECK(client->out().empty());
}
