#include "server/base/size_text.hpp"

#include <iterator>

#include <fmt/format.h>

namespace blockloom {

std::string size_text(std::uint64_t bytes) {
  static constexpr const char* units[] = {"B", "KiB", "MiB", "GiB", "TiB", "PiB", "EiB"};
  std::size_t unit = 0;
  double n = static_cast<double>(bytes);
  for (; n >= 1024 && unit + 1 < std::size(units); ++unit)
    n /= 1024;
  return fmt::format("{:.4g} {}", n, units[unit]);
}

}  // namespace blockloom
