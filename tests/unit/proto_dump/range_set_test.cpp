#include "proto/dump/range_set.hpp"

#include <random>
#include <set>

#include <doctest/doctest.h>

using namespace blockloom::dump;

TEST_CASE("ranges that touch or overlap become one") {
  RangeSet set;
  CHECK(set.insert(10, 20));
  CHECK(set.insert(30, 40));
  CHECK(set.count() == 2);
  CHECK(set.insert(20, 30));
  CHECK(set.ranges() == std::vector<Range>{{10, 40}});
  CHECK(set.insert(0, 100));
  CHECK(set.ranges() == std::vector<Range>{{0, 100}});
  CHECK(set.covered() == 100);
}

TEST_CASE("holes are what is missing before an end") {
  RangeSet set;
  set.insert(10, 20);
  set.insert(30, 40);
  CHECK(set.holes(50) == std::vector<Range>{{0, 10}, {20, 30}, {40, 50}});
  CHECK(set.holes(25) == std::vector<Range>{{0, 10}, {20, 25}});
  CHECK(set.holes(50, 1) == std::vector<Range>{{0, 10}});
  CHECK(set.missing(35) == 20);
  CHECK(set.first_missing(0) == 0);
  CHECK(set.first_missing(10) == 20);
  CHECK(set.first_missing(25) == 25);
}

TEST_CASE("an empty range changes nothing, a backward one is refused") {
  RangeSet set;
  CHECK(set.insert(5, 5));
  CHECK(set.empty());
  CHECK_FALSE(set.insert(6, 5));
  CHECK(set.contains(5, 5));
  CHECK_FALSE(set.overlaps(0, 0));
}

TEST_CASE("a full set takes what needs no further range") {
  RangeSet set(2);
  CHECK(set.insert(0, 1));
  CHECK(set.insert(10, 11));
  CHECK_FALSE(set.insert(20, 21));
  CHECK(set.insert(1, 10));
  CHECK(set.insert(20, 21));
}

TEST_CASE("it agrees with a set of numbers, whatever is put in") {
  for (unsigned seed = 0; seed < 50; ++seed) {
    CAPTURE(seed);
    std::mt19937 random(seed);
    RangeSet set;
    std::set<std::uint64_t> numbers;
    for (int i = 0; i < 40; ++i) {
      const std::uint64_t begin = random() % 200, end = begin + random() % 30;
      CHECK(set.insert(begin, end));
      for (std::uint64_t n = begin; n < end; ++n)
        numbers.insert(n);
      const std::uint64_t a = random() % 230, b = a + random() % 20;
      bool all = true, any = false;
      for (std::uint64_t n = a; n < b; ++n) {
        all = all && numbers.count(n) != 0;
        any = any || numbers.count(n) != 0;
      }
      CHECK(set.contains(a, b) == all);
      CHECK(set.overlaps(a, b) == any);
      CHECK(set.covered() == numbers.size());
      std::uint64_t holes = 0;
      for (const Range& hole : set.holes(a))
        holes += hole.size();
      CHECK(holes == set.missing(a));
    }
  }
}
