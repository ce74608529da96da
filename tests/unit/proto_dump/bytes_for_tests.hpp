#pragma once

#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "proto/dump/bytes.hpp"

/// Builds wire bytes one field at a time.
class Wire {
 public:
  Wire& be(std::uint64_t value, int size) {
    for (int i = size - 1; i >= 0; --i)
      bytes_.push_back(static_cast<std::byte>(value >> (8 * i)));
    return *this;
  }
  Wire& le(std::uint64_t value, int size) {
    for (int i = 0; i < size; ++i)
      bytes_.push_back(static_cast<std::byte>(value >> (8 * i)));
    return *this;
  }
  Wire& text(std::string_view value, std::size_t size) {
    for (std::size_t i = 0; i < size; ++i)
      bytes_.push_back(static_cast<std::byte>(i < value.size() ? value[i] : 0));
    return *this;
  }
  Wire& text(std::string_view value) { return text(value, value.size()); }
  Wire& pad_to(std::size_t size) {
    bytes_.resize(size);
    return *this;
  }
  std::vector<std::byte>& bytes() { return bytes_; }
  operator blockloom::dump::ByteView() const { return bytes_; }

 private:
  std::vector<std::byte> bytes_;
};
