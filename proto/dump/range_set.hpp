#pragma once

#include <cstddef>
#include <cstdint>
#include <map>
#include <vector>

namespace blockloom::dump {

/// [begin, end) of bytes, or of sequence numbers.
struct Range {
  std::uint64_t begin = 0, end = 0;
  std::uint64_t size() const noexcept { return end - begin; }
  bool operator==(const Range&) const = default;
};

/// A set of numbers kept as ranges that do not touch. Bounded: a set that would need more than
/// `limit` ranges takes no more, which only a hostile or a very broken sender reaches.
class RangeSet {
 public:
  explicit RangeSet(std::size_t limit = 65536) : limit_(limit) {}

  /// False, with nothing changed, if the range is backwards or the set is full.
  bool insert(std::uint64_t begin, std::uint64_t end);
  bool contains(std::uint64_t begin, std::uint64_t end) const;
  bool contains(std::uint64_t number) const { return contains(number, number + 1); }

  /// Whether any number of the range is in the set.
  bool overlaps(std::uint64_t begin, std::uint64_t end) const;

  std::uint64_t covered() const noexcept { return covered_; }
  std::uint64_t end() const noexcept { return ranges_.empty() ? 0 : ranges_.rbegin()->second; }
  /// The first number from `from` on that is not in the set.
  std::uint64_t first_missing(std::uint64_t from) const;
  std::size_t count() const noexcept { return ranges_.size(); }
  bool empty() const noexcept { return ranges_.empty(); }

  std::vector<Range> ranges(std::size_t most = 65536) const;
  /// What is missing of [0, end), at most `most` of them, from the start.
  std::vector<Range> holes(std::uint64_t end, std::size_t most = 1024) const;
  std::uint64_t missing(std::uint64_t end) const;  ///< how many numbers of [0, end)

 private:
  std::size_t limit_;
  std::map<std::uint64_t, std::uint64_t> ranges_;  // begin → end
  std::uint64_t covered_ = 0;
};

}  // namespace blockloom::dump
