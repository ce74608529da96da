#pragma once

#include <cstddef>
#include <cstdint>

namespace blockloom::dump {

/// SHA-256 (FIPS 180-4) for the small texts of the dump protocol. Needs nothing but the language;
/// whole dumps are digested by OpenSSL's, in the server.
class Sha256 {
 public:
  static constexpr std::size_t size = 32;

  Sha256() noexcept;
  void add(const void* data, std::size_t length) noexcept;
  void finish(unsigned char digest[size]) noexcept;

 private:
  void block(const unsigned char* p) noexcept;

  std::uint32_t h_[8];
  unsigned char buffer_[64];
  std::uint64_t total_ = 0;
};

/// HMAC-SHA256 (RFC 2104).
void hmac_sha256(const void* key, std::size_t key_size, const void* text, std::size_t text_size,
                 unsigned char digest[Sha256::size]) noexcept;

/// `out` takes 2 * size + 1 characters.
void to_hex(const unsigned char* bytes, std::size_t size, char* out) noexcept;

}  // namespace blockloom::dump
