#include "proto/dump/range_set.hpp"

#include <algorithm>
#include <iterator>

namespace blockloom::dump {

bool RangeSet::insert(std::uint64_t begin, std::uint64_t end) {
  if (begin >= end) return begin == end;
  // The first range that ends at or after `begin`: it touches, or it lies behind.
  auto it = ranges_.upper_bound(begin);
  if (it != ranges_.begin() && std::prev(it)->second >= begin) --it;
  const bool touches = it != ranges_.end() && it->first <= end;
  if (!touches && ranges_.size() >= limit_) return false;
  while (it != ranges_.end() && it->first <= end) {
    begin = std::min(begin, it->first);
    end = std::max(end, it->second);
    covered_ -= it->second - it->first;
    it = ranges_.erase(it);
  }
  ranges_.emplace_hint(it, begin, end);
  covered_ += end - begin;
  return true;
}

bool RangeSet::contains(std::uint64_t begin, std::uint64_t end) const {
  if (begin >= end) return true;
  const auto after = ranges_.upper_bound(begin);
  return after != ranges_.begin() && std::prev(after)->second >= end;
}

bool RangeSet::overlaps(std::uint64_t begin, std::uint64_t end) const {
  if (begin >= end) return false;
  const auto behind = ranges_.lower_bound(end);
  return behind != ranges_.begin() && std::prev(behind)->second > begin;
}

std::uint64_t RangeSet::first_missing(std::uint64_t from) const {
  const auto after = ranges_.upper_bound(from);
  if (after == ranges_.begin()) return from;
  return std::max(from, std::prev(after)->second);
}

std::vector<Range> RangeSet::ranges(std::size_t most) const {
  std::vector<Range> all;
  for (const auto& [begin, end] : ranges_) {
    if (all.size() >= most) break;
    all.push_back({begin, end});
  }
  return all;
}

std::vector<Range> RangeSet::holes(std::uint64_t end, std::size_t most) const {
  std::vector<Range> all;
  std::uint64_t at = 0;
  for (const auto& [first, last] : ranges_) {
    if (at >= end || all.size() >= most) return all;
    if (first > at) all.push_back({at, std::min(first, end)});
    at = last;
  }
  if (at < end && all.size() < most) all.push_back({at, end});
  return all;
}

std::uint64_t RangeSet::missing(std::uint64_t end) const {
  std::uint64_t inside = 0;
  for (const auto& [first, last] : ranges_) {
    if (first >= end) break;
    inside += std::min(last, end) - first;
  }
  return end - inside;
}

}  // namespace blockloom::dump
