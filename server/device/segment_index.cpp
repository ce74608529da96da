#include "server/device/segment_index.hpp"

#include <limits>

namespace blockloom {

SegmentIndex::SegmentIndex(std::span<const std::uint64_t> starts) {
  if (starts.size() < 2) return;
  // A level's keys are the first ones of the nodes below it.
  std::vector<std::vector<std::uint64_t>> levels{{starts.begin(), starts.end()}};
  while (levels.back().size() > keys) {
    std::vector<std::uint64_t> above;
    for (std::size_t i = 0; i < levels.back().size(); i += keys)
      above.push_back(levels.back()[i]);
    levels.push_back(std::move(above));
  }
  for (auto level = levels.rbegin(); level != levels.rend(); ++level) {
    levels_.push_back(nodes_.size());
    for (std::size_t i = 0; i < level->size(); ++i) {
      if (i % keys == 0) nodes_.emplace_back().fill(std::numeric_limits<std::uint64_t>::max());
      nodes_.back()[i % keys] = (*level)[i];
    }
  }
}

}  // namespace blockloom
