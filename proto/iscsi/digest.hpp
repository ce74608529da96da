#pragma once

#include <cstddef>
#include <cstdint>
#include <span>

namespace blockloom::iscsi {

/// CRC32C over one or several runs of bytes (RFC 7143 13.1). Order on the wire: value() & 0xff is
/// the first of its four bytes.
class Crc32c {
 public:
  void add(const void* data, std::size_t length) noexcept;
  /// Zeroes that pad a data segment to whole words.
  void add_padding(std::size_t data_length) noexcept;
  std::uint32_t value() const noexcept { return ~state_; }

 private:
  std::uint32_t state_ = ~0U;
};

inline std::uint32_t crc32c(const void* data, std::size_t length) noexcept {
  Crc32c crc;
  crc.add(data, length);
  return crc.value();
}

}  // namespace blockloom::iscsi
