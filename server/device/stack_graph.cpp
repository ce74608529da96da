#include "server/device/stack_graph.hpp"

#include <algorithm>
#include <set>

namespace blockloom {

bool StackGraph::reaches(const Device* from, const Device* goal) const {
  std::vector<const Device*> open{from};
  std::set<const Device*> seen;
  while (!open.empty()) {
    const Device* device = open.back();
    open.pop_back();
    if (device == goal) return true;
    if (!seen.insert(device).second) continue;
    if (const auto below = below_.find(device); below != below_.end())
      open.insert(open.end(), below->second.begin(), below->second.end());
  }
  return false;
}

int StackGraph::height(const Device* device) const {
  std::map<const Device*, int> known;
  return height(device, known);
}

int StackGraph::greatest_height() const {
  std::map<const Device*, int> known;
  int greatest = 0;
  for (const auto& [device, below] : below_)
    greatest = std::max(greatest, height(device, known));
  return greatest;
}

int StackGraph::height(const Device* device, std::map<const Device*, int>& known) const {
  // Recursion ends soon: loops are cut here, and stacks are at most `deepest` high plus the one
  // edge under test.
  const auto [entry, first_visit] = known.emplace(device, 0);
  if (!first_visit) return entry->second;
  int highest = 0;
  if (const auto below = below_.find(device); below != below_.end())
    for (const Device* lower : below->second)
      highest = std::max(highest, 1 + height(lower, known));
  known[device] = highest;
  return highest;
}

}  // namespace blockloom
