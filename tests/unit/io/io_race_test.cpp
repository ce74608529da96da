// Ends, deadlines, cancels and fences that meet. Whatever the order: each region is told its first
// notice once, its second exactly when the first was not final, and never the other way round.
#include <atomic>
#include <random>
#include <thread>

#include "tests/unit/io/io_test.hpp"

using namespace blockloom;
using namespace blockloom::test;
using namespace std::chrono_literals;

namespace {

/// What one region was told.
struct Told {
  std::atomic<int> first{0}, second{0};
  std::atomic<bool> owes_second{false}, wrong{false};

  static void notify(const IoNotice& notice, void* context) noexcept {
    auto& told = static_cast<Told*>(context)[notice.region];
    if (!notice.second) {
      if (++told.first != 1) told.wrong = true;
      told.owes_second = !notice.final;
    } else {
      if (told.first != 1 || !told.owes_second || !notice.final) told.wrong = true;
      if (++told.second != 1) told.wrong = true;
    }
  }
  bool complete() const { return first == 1 && second == (owes_second ? 1 : 0) && !wrong; }
};

/// Ends what it holds from threads of its own, after a time that is about the deadline's.
void end_all(ManualLeg& leg, std::atomic<bool>& stop, unsigned seed) {
  std::mt19937 random(seed);
  while (!stop || leg.held() > 0) {
    if (random() % 4 == 0) std::this_thread::sleep_for(std::chrono::microseconds(random() % 1500));
    if (!leg.end_one(random() % 8 == 0 ? Errc::io : Errc::ok)) std::this_thread::yield();
  }
}

}  // namespace

TEST_CASE("ends, deadlines and cancels race, and every region is told rightly") {
  auto client = make_client({.requests = 8, .most_requests = 256});
  auto a = std::make_shared<ManualLeg>("a"), b = std::make_shared<ManualLeg>("b");
  client->set_leg(0, a, {});
  client->set_leg(1, b, {.lane = true, .lane_threads = 2});
  std::atomic<bool> stop{false};
  std::vector<std::thread> enders;
  enders.emplace_back([&] { end_all(*a, stop, 1); });
  enders.emplace_back([&] { end_all(*b, stop, 2); });

  constexpr int rounds = 400;
  std::vector<std::unique_ptr<std::array<Told, 2>>> told(3 * rounds);
  std::vector<std::thread> submitters;
  for (unsigned t = 0; t < 3; ++t)
    submitters.emplace_back([&, t] {
      std::mt19937 random(100 + t);
      for (int i = 0; i < rounds; ++i) {
        auto& mine = told[t * rounds + static_cast<unsigned>(i)];
        mine = std::make_unique<std::array<Told, 2>>();
        IoRequest request;
        request.op = Op::write;
        const std::array regions{region(0, 0, 512, std::chrono::microseconds(random() % 3000)),
                                 region(1, 0, 512, std::chrono::microseconds(random() % 3000))};
        request.regions = regions;
        request.cancel_on_timeout = random() % 2 == 0;
        request.buffer = client->buffers().acquire(Bytes(512));
        request.notify = Told::notify;
        request.context = mine->data();
        IoResults results;
        IoHandle handle;
        if (client->submit(request, results, &handle) == Submit::done) {
          mine.reset();  // too many at a time
          continue;
        }
        if (random() % 3 == 0) client->cancel(handle);
        if (random() % 16 == 0) client->cancel_leg(random() % 2);
        if (random() % 64 == 0) client->out();
      }
    });
  for (auto& thread : submitters)
    thread.join();
  stop = true;
  for (auto& thread : enders)
    thread.join();
  REQUIRE(client->wait_quiet(Clock::now() + 60s));
  int wrong = 0, taken = 0;
  for (const auto& request : told)
    for (std::size_t r = 0; request && r < 2; ++r, ++taken)
      wrong += (*request)[r].complete() ? 0 : 1;
  CHECK(wrong == 0);
  CHECK(taken > rounds);
  for (const std::uint32_t place : {0U, 1U}) {
    CHECK(client->pending(place) == 0);
    CHECK(client->late(place) == 0);
    CHECK(client->late_bytes(place) == Bytes(0));
  }
  CHECK(client->buffers().out() == Bytes(0));
}

TEST_CASE("fences race with ends, and every late region is told once") {
  auto client = make_client({.requests = 8, .most_requests = 512});
  auto leg = std::make_shared<ManualLeg>();
  client->set_leg(0, leg, {});
  std::atomic<bool> stop{false};
  std::thread ender([&] { end_all(*leg, stop, 3); });
  std::thread fencer([&] {
    while (!stop) {
      client->fenced(0, Errc::io);
      std::this_thread::sleep_for(300us);
    }
  });
  constexpr int rounds = 1500;
  std::vector<std::unique_ptr<Told>> told(rounds);
  for (int i = 0; i < rounds; ++i) {
    auto& mine = told[static_cast<unsigned>(i)];
    mine = std::make_unique<Told>();
    IoRequest request;
    request.op = Op::write;
    const std::array regions{region(0, 0, 512, 1ms)};
    request.regions = regions;
    request.buffer = client->buffers().acquire(Bytes(512));
    request.notify = Told::notify;
    request.context = mine.get();
    IoResults results;
    if (client->submit(request, results) == Submit::done) mine.reset();
  }
  stop = true;
  ender.join();
  fencer.join();
  REQUIRE(client->wait_quiet(Clock::now() + 60s));
  int wrong = 0;
  for (const auto& request : told)
    wrong += request && !request->complete() ? 1 : 0;
  CHECK(wrong == 0);
}

TEST_CASE("a client ends while its late regions end, again and again") {
  for (unsigned i = 0; i < 60; ++i) {
    auto leg = std::make_shared<ManualLeg>();
    std::atomic<bool> stop{false};
    std::thread ender([&] { end_all(*leg, stop, i); });
    {
      auto client = make_client();
      client->set_leg(0, leg, {});
      for (int n = 0; n < 20; ++n) {
        IoRequest request;
        request.op = Op::write;
        const std::array regions{region(0, 0, 512, 1ms)};
        request.regions = regions;
        request.buffer = client->buffers().acquire(Bytes(512));
        const IoResults results = client->run(request);
        static_cast<void>(results);
      }
    }
    stop = true;
    ender.join();
  }
}
