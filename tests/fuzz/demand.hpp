#pragma once

#include <cstdlib>

/// A promise that was broken: what a fuzzer looks for.
inline void demand(bool truth) {
  if (!truth) std::abort();
}
