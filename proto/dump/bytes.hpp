#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <string>
#include <string_view>

/// Crash-dump protocols and formats: bytes in, values out. Nothing here reads files or sockets.
namespace blockloom::dump {

using ByteView = std::span<const std::byte>;

inline std::uint8_t u8(const std::byte* p) noexcept {
  return std::to_integer<std::uint8_t>(*p);
}
inline std::uint16_t be16(const std::byte* p) noexcept {
  return static_cast<std::uint16_t>(u8(p) << 8 | u8(p + 1));
}
inline std::uint32_t be32(const std::byte* p) noexcept {
  return std::uint32_t{be16(p)} << 16 | be16(p + 2);
}
inline std::uint64_t be64(const std::byte* p) noexcept {
  return std::uint64_t{be32(p)} << 32 | be32(p + 4);
}
inline std::uint32_t le32(const std::byte* p) noexcept {
  return std::uint32_t{u8(p)} | std::uint32_t{u8(p + 1)} << 8 | std::uint32_t{u8(p + 2)} << 16 |
         std::uint32_t{u8(p + 3)} << 24;
}
inline std::uint64_t le64(const std::byte* p) noexcept {
  return std::uint64_t{le32(p)} | std::uint64_t{le32(p + 4)} << 32;
}

inline void put_be16(std::byte* p, std::uint16_t v) noexcept {
  p[0] = std::byte(v >> 8);
  p[1] = std::byte(v & 0xff);
}
inline void put_be32(std::byte* p, std::uint32_t v) noexcept {
  put_be16(p, static_cast<std::uint16_t>(v >> 16));
  put_be16(p + 2, static_cast<std::uint16_t>(v));
}
inline void put_be64(std::byte* p, std::uint64_t v) noexcept {
  put_be32(p, static_cast<std::uint32_t>(v >> 32));
  put_be32(p + 4, static_cast<std::uint32_t>(v));
}

inline std::string_view as_text(ByteView bytes) noexcept {
  return {reinterpret_cast<const char*>(bytes.data()), bytes.size()};
}
inline ByteView as_bytes(std::string_view text) noexcept {
  return {reinterpret_cast<const std::byte*>(text.data()), text.size()};
}

/// A fixed field that holds a C string: up to its first NUL.
inline std::string text_field(const std::byte* p, std::size_t size) {
  const std::string_view field(reinterpret_cast<const char*>(p), size);
  return std::string(field.substr(0, field.find('\0')));
}

}  // namespace blockloom::dump
