#pragma once

#include <compare>
#include <cstdint>
#include <limits>
#include <optional>

namespace blockloom {

inline constexpr std::uint64_t sector_size = 512;

/// A count or an offset of one unit. Units never mix without saying so.
template <class Tag>
struct Quantity {
  std::uint64_t value = 0;

  constexpr Quantity() = default;
  constexpr explicit Quantity(std::uint64_t v) : value(v) {}

  constexpr auto operator<=>(const Quantity&) const = default;
  constexpr Quantity operator+(Quantity o) const { return Quantity(value + o.value); }
  constexpr Quantity operator-(Quantity o) const { return Quantity(value - o.value); }
  constexpr Quantity operator%(Quantity o) const { return Quantity(value % o.value); }
  constexpr std::uint64_t operator/(Quantity o) const { return value / o.value; }
  constexpr Quantity operator*(std::uint64_t n) const { return Quantity(value * n); }
  constexpr Quantity& operator+=(Quantity o) {
    value += o.value;
    return *this;
  }
  constexpr Quantity& operator-=(Quantity o) {
    value -= o.value;
    return *this;
  }
};

/// Bytes: what requests and legs count in.
using Bytes = Quantity<struct BytesTag>;
/// Sectors of 512 bytes: what table lines count in, whatever a leg's own block size is.
using Sectors = Quantity<struct SectorsTag>;

/// Largest number of sectors whose bytes still fit a signed 64-bit file offset.
inline constexpr Sectors max_sectors{std::numeric_limits<std::int64_t>::max() / sector_size};

/// Exact: callers keep to max_sectors, which the table grammar enforces.
constexpr Bytes to_bytes(Sectors s) {
  return Bytes(s.value * sector_size);
}
/// Rounds down: a partial last sector does not count.
constexpr Sectors to_sectors(Bytes b) {
  return Sectors(b.value / sector_size);
}

/// To a multiple of `unit`. Rounding up: n + unit fits 64 bits, as offsets of a leg do.
constexpr std::uint64_t round_down(std::uint64_t n, std::uint64_t unit) {
  return n - n % unit;
}
constexpr std::uint64_t round_up(std::uint64_t n, std::uint64_t unit) {
  return round_down(n + unit - 1, unit);
}

}  // namespace blockloom
