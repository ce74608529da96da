#include "proto/iscsi/digest.hpp"

#include <algorithm>

#include <isa-l/crc.h>

namespace blockloom::iscsi {

void Crc32c::add(const void* data, std::size_t length) noexcept {
  // ISA-L counts in int, takes a pointer that it does not write through, and inverts nothing.
  auto* bytes = static_cast<unsigned char*>(const_cast<void*>(data));
  while (length > 0) {
    const std::size_t now = std::min<std::size_t>(length, std::size_t{1} << 30);
    state_ = crc32_iscsi(bytes, static_cast<int>(now), state_);
    bytes += now;
    length -= now;
  }
}

void Crc32c::add_padding(std::size_t data_length) noexcept {
  static constexpr unsigned char zeroes[4] = {};
  if (const std::size_t pad = (4 - data_length % 4) % 4; pad != 0) add(zeroes, pad);
}

}  // namespace blockloom::iscsi
