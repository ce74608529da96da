#include "server/dump/workers.hpp"

#include <atomic>
#include <future>

#include <doctest/doctest.h>

using namespace blockloom::dump;

TEST_CASE("jobs of a strand run in order and never two at a time") {
  Workers workers("bl-test", 4);
  workers.start();
  constexpr int strands = 8, jobs = 200;
  struct Seen {
    std::atomic<int> inside{0};
    int next = 0;
    bool good = true;
  };
  std::vector<Seen> seen(strands);
  std::vector<std::shared_ptr<Workers::Strand>> all;
  for (int s = 0; s < strands; ++s)
    all.push_back(std::make_shared<Workers::Strand>());
  for (int j = 0; j < jobs; ++j)
    for (int s = 0; s < strands; ++s)
      workers.post(all[static_cast<std::size_t>(s)],
                   [&mine = seen[static_cast<std::size_t>(s)], j] {
                     mine.good = mine.good && mine.inside++ == 0 && mine.next++ == j;
                     --mine.inside;
                   });
  workers.stop();
  for (const Seen& mine : seen) {
    CHECK(mine.good);
    CHECK(mine.next == jobs);
  }
}

TEST_CASE("a strand that waits holds up no other") {
  Workers workers("bl-test", 2);
  workers.start();
  const auto slow = std::make_shared<Workers::Strand>(), fast = std::make_shared<Workers::Strand>();
  std::promise<void> release, done;
  workers.post(slow, [&] { release.get_future().wait(); });
  workers.post(fast, [&] { done.set_value(); });
  done.get_future().wait();
  release.set_value();
  workers.stop();
}

TEST_CASE("stop carries out what was posted, also what that posts, and takes nothing more") {
  Workers workers("bl-test", 2);
  workers.start();
  const auto strand = std::make_shared<Workers::Strand>();
  std::atomic<int> ran{0};
  for (int i = 0; i < 100; ++i)
    workers.post(strand, [&] {
      ++ran;
      workers.post(strand, [&] { ++ran; });
    });
  workers.stop();
  CHECK(ran == 200);
  workers.post(strand, [&] { ++ran; });
  workers.stop();
  CHECK(ran == 200);
}
