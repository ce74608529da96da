#pragma once

#include <map>
#include <set>
#include <vector>

#include "server/device/device.hpp"

namespace blockloom {

/// Which devices stand on which: an edge from a device to each one below it.
class StackGraph {
 public:
  /// Deeper stacks are refused: a request goes down the stack by calls.
  static constexpr int deepest = 32;

  void add(const Device* upper, const Device* lower);

  /// How many devices stand below this one, on the longest way down. A loop (there is one for a
  /// moment when a stack is turned over) counts once.
  int height(const Device* device) const;
  /// Likewise above it.
  int depth(const Device* device) const;
  /// The device itself and all that stand on it, at any height.
  std::set<const Device*> above(const Device* device) const;

 private:
  using Edges = std::map<const Device*, std::vector<const Device*>>;
  static int longest(const Edges& edges, const Device* device, std::map<const Device*, int>& known);

  Edges below_, above_;
};

}  // namespace blockloom
