#pragma once

#include <map>
#include <memory>
#include <vector>

#include "server/device/device.hpp"

namespace blockloom {

/// Which devices stand on which: an edge from a device to each one below it.
class StackGraph {
 public:
  /// Deeper stacks are refused: a request goes down the stack by calls.
  static constexpr int deepest = 32;

  void add(const Device* upper, const Device* lower) { below_[upper].push_back(lower); }

  bool reaches(const Device* from, const Device* goal) const;

  /// How many devices stand below this one, on the longest way down. A loop (there is one for a
  /// moment when a stack is turned over) counts once.
  int height(const Device* device) const;
  int greatest_height() const;

 private:
  int height(const Device* device, std::map<const Device*, int>& known) const;

  std::map<const Device*, std::vector<const Device*>> below_;
};

}  // namespace blockloom
