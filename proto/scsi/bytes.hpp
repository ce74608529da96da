#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <string_view>
#include <vector>

/// Big-endian fields, as SCSI writes them.
namespace blockloom::scsi {

using Input = std::span<const std::uint8_t>;
/// Data for the initiator, whole; the caller cuts it to the allocation length.
using Output = std::vector<std::uint8_t>;

template <unsigned Size>
constexpr std::uint64_t load(const std::uint8_t* from) noexcept {
  std::uint64_t value = 0;
  for (unsigned i = 0; i < Size; ++i)
    value = value << 8 | from[i];
  return value;
}

template <unsigned Size>
constexpr void store(std::uint8_t* to, std::uint64_t value) noexcept {
  for (unsigned i = Size; i-- > 0; value >>= 8)
    to[i] = static_cast<std::uint8_t>(value);
}

constexpr std::uint16_t load16(const std::uint8_t* from) noexcept {
  return static_cast<std::uint16_t>(load<2>(from));
}
constexpr std::uint32_t load32(const std::uint8_t* from) noexcept {
  return static_cast<std::uint32_t>(load<4>(from));
}
constexpr std::uint64_t load64(const std::uint8_t* from) noexcept {
  return load<8>(from);
}

template <unsigned Size>
void append(Output& out, std::uint64_t value) {
  out.resize(out.size() + Size);
  store<Size>(out.data() + out.size() - Size, value);
}

inline void append_text(Output& out, std::string_view text) {
  out.insert(out.end(), text.begin(), text.end());
}

/// A field of ASCII, padded with blanks (SPC-4 4.3.1).
inline void append_padded(Output& out, std::string_view text, std::size_t width) {
  append_text(out, text.substr(0, width));
  if (text.size() < width) out.insert(out.end(), width - text.size(), ' ');
}

}  // namespace blockloom::scsi
