#pragma once

#include <cstddef>

namespace blockloom {

/// What zeroes are written from where a server or a disk has no command for them. Never written
/// to; not const only because libraries' and iovec's pointers are not.
inline constexpr std::size_t zero_bytes_size = std::size_t{1} << 20;
extern std::byte zero_bytes[zero_bytes_size];

}  // namespace blockloom
