#include "server/device/stack_graph.hpp"

#include <algorithm>

namespace blockloom {

void StackGraph::add(const Device* upper, const Device* lower) {
  below_[upper].push_back(lower);
  above_[lower].push_back(upper);
}

std::set<const Device*> StackGraph::above(const Device* device) const {
  std::set<const Device*> seen;
  std::vector<const Device*> open{device};
  while (!open.empty()) {
    const Device* next = open.back();
    open.pop_back();
    if (!seen.insert(next).second) continue;
    if (const auto uppers = above_.find(next); uppers != above_.end())
      open.insert(open.end(), uppers->second.begin(), uppers->second.end());
  }
  return seen;
}

int StackGraph::height(const Device* device) const {
  std::map<const Device*, int> known;
  return longest(below_, device, known);
}

int StackGraph::depth(const Device* device) const {
  std::map<const Device*, int> known;
  return longest(above_, device, known);
}

int StackGraph::longest(const Edges& edges, const Device* device,
                        std::map<const Device*, int>& known) {
  // Recursion ends soon: loops are cut here, and stacks are at most `deepest` high.
  const auto [entry, first_visit] = known.emplace(device, 0);
  if (!first_visit) return entry->second;
  int most = 0;
  if (const auto next = edges.find(device); next != edges.end())
    for (const Device* other : next->second)
      most = std::max(most, 1 + longest(edges, other, known));
  known[device] = most;
  return most;
}

}  // namespace blockloom
