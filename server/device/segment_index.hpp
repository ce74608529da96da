#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

namespace blockloom {

/// Where segments start, as a tree whose nodes are one cache line each (dm-table's btree). Between
/// two lookups the data of the requests wash the caches out: with 10,000 segments a binary search
/// would wait for memory five or six times, this does once or twice. Immutable; any thread.
class SegmentIndex {
 public:
  /// `starts` begins with 0 and rises.
  explicit SegmentIndex(std::span<const std::uint64_t> starts);
  SegmentIndex() = default;

  /// Which segment holds the offset: the last that starts at or before it.
  std::size_t find(std::uint64_t offset) const noexcept {
    std::size_t index = 0;
    for (const std::size_t first : levels_)
      index = index * keys + rank(nodes_[first + index], offset) - 1;
    return index;
  }

 private:
  static constexpr std::size_t keys = 8;
  struct alignas(64) Node : std::array<std::uint64_t, keys> {};

  /// How many keys are not above the offset. Counted without a branch to mispredict; the padding is
  /// larger than any offset.
  static std::size_t rank(const Node& n, std::uint64_t offset) noexcept {
    const auto count = [&](std::size_t i) { return std::size_t{n[i] <= offset}; };
    return ((count(0) + count(1)) + (count(2) + count(3))) +
           ((count(4) + count(5)) + (count(6) + count(7)));
  }

  std::vector<Node> nodes_;
  std::vector<std::size_t> levels_;  // where each begins, root first; none for one segment
};

}  // namespace blockloom
