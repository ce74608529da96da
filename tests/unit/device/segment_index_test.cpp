#include "server/device/segment_index.hpp"

#include <algorithm>
#include <cstdint>
#include <random>
#include <vector>

#include <doctest/doctest.h>

using blockloom::SegmentIndex;

namespace {

std::size_t expected(const std::vector<std::uint64_t>& starts, std::uint64_t offset) {
  const auto after = std::upper_bound(starts.begin(), starts.end(), offset);
  return static_cast<std::size_t>(after - starts.begin()) - 1;
}

}  // namespace

TEST_CASE("an index finds the segment of every offset, for any number of segments") {
  std::mt19937_64 random(1);
  for (std::size_t count = 1; count < 700; ++count) {
    std::vector<std::uint64_t> starts{0};
    while (starts.size() < count)
      starts.push_back(starts.back() + 512 * (1 + random() % 9));
    const SegmentIndex index(starts);
    for (std::size_t i = 0; i < count; ++i) {
      REQUIRE(index.find(starts[i]) == i);
      if (i > 0) REQUIRE(index.find(starts[i] - 1) == i - 1);
    }
    REQUIRE(index.find(starts.back() + 100000) == count - 1);
  }
}

TEST_CASE("an index of very many and very far segments agrees with a plain search") {
  std::mt19937_64 random(2);
  std::vector<std::uint64_t> starts{0};
  for (int i = 0; i < 100000; ++i)
    starts.push_back(starts.back() + 512 * (1 + random() % (std::uint64_t{1} << 36)));
  REQUIRE(starts.back() < std::uint64_t{1} << 63);
  const SegmentIndex index(starts);
  for (int i = 0; i < 100000; ++i) {
    const std::uint64_t offset = random() % (starts.back() + 512);
    REQUIRE(index.find(offset) == expected(starts, offset));
  }
  CHECK(index.find((std::uint64_t{1} << 63) - 1) == starts.size() - 1);
}
