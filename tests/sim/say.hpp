#pragma once

#include <cstdio>

#include <fmt/format.h>

#include "tests/sim/world.hpp"

namespace blockloom::sim {

/// A line of the trace, with its virtual time in microseconds.
template <class... Args>
void World::say(const char* format, const Args&... args) {
  if (!trace_) return;
  fmt::print("{:>10.1f} {}\n", static_cast<double>(now_) / 1000.0,
             fmt::vformat(format, fmt::make_format_args(args...)));
}

}  // namespace blockloom::sim
