#pragma once

#include <cstddef>
#include <cstdint>

namespace blockloom::dump {

/// CRC32C (Castagnoli), as iSCSI and ext4 have it. Goes on from `crc`; 0 begins. Needs nothing but
/// the language, for the client in an initramfs; the server takes ISA-L's, which is faster.
std::uint32_t crc32c(std::uint32_t crc, const void* data, std::size_t size) noexcept;

/// The CRC of two pieces together, from those of each and the second's length.
std::uint32_t crc32c_combine(std::uint32_t first, std::uint32_t second,
                             std::uint64_t second_size) noexcept;

}  // namespace blockloom::dump
