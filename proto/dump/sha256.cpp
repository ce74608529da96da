#include "proto/dump/sha256.hpp"

#include <cstring>

namespace blockloom::dump {
namespace {

constexpr std::uint32_t k[64] = {
    0x428a2f98, 0x71374491, 0xb5c0fbcf, 0xe9b5dba5, 0x3956c25b, 0x59f111f1, 0x923f82a4, 0xab1c5ed5,
    0xd807aa98, 0x12835b01, 0x243185be, 0x550c7dc3, 0x72be5d74, 0x80deb1fe, 0x9bdc06a7, 0xc19bf174,
    0xe49b69c1, 0xefbe4786, 0x0fc19dc6, 0x240ca1cc, 0x2de92c6f, 0x4a7484aa, 0x5cb0a9dc, 0x76f988da,
    0x983e5152, 0xa831c66d, 0xb00327c8, 0xbf597fc7, 0xc6e00bf3, 0xd5a79147, 0x06ca6351, 0x14292967,
    0x27b70a85, 0x2e1b2138, 0x4d2c6dfc, 0x53380d13, 0x650a7354, 0x766a0abb, 0x81c2c92e, 0x92722c85,
    0xa2bfe8a1, 0xa81a664b, 0xc24b8b70, 0xc76c51a3, 0xd192e819, 0xd6990624, 0xf40e3585, 0x106aa070,
    0x19a4c116, 0x1e376c08, 0x2748774c, 0x34b0bcb5, 0x391c0cb3, 0x4ed8aa4a, 0x5b9cca4f, 0x682e6ff3,
    0x748f82ee, 0x78a5636f, 0x84c87814, 0x8cc70208, 0x90befffa, 0xa4506ceb, 0xbef9a3f7, 0xc67178f2};

constexpr std::uint32_t turn(std::uint32_t x, int n) noexcept {
  return x >> n | x << (32 - n);
}

}  // namespace

Sha256::Sha256() noexcept
    : h_{0x6a09e667, 0xbb67ae85, 0x3c6ef372, 0xa54ff53a,
         0x510e527f, 0x9b05688c, 0x1f83d9ab, 0x5be0cd19} {}

void Sha256::block(const unsigned char* p) noexcept {
  std::uint32_t w[64];
  for (int i = 0; i < 16; ++i)
    w[i] = std::uint32_t{p[4 * i]} << 24 | std::uint32_t{p[4 * i + 1]} << 16 |
           std::uint32_t{p[4 * i + 2]} << 8 | std::uint32_t{p[4 * i + 3]};
  for (int i = 16; i < 64; ++i) {
    const std::uint32_t s0 = turn(w[i - 15], 7) ^ turn(w[i - 15], 18) ^ w[i - 15] >> 3;
    const std::uint32_t s1 = turn(w[i - 2], 17) ^ turn(w[i - 2], 19) ^ w[i - 2] >> 10;
    w[i] = w[i - 16] + s0 + w[i - 7] + s1;
  }
  std::uint32_t a = h_[0], b = h_[1], c = h_[2], d = h_[3], e = h_[4], f = h_[5], g = h_[6],
                h = h_[7];
  for (int i = 0; i < 64; ++i) {
    const std::uint32_t t1 =
        h + (turn(e, 6) ^ turn(e, 11) ^ turn(e, 25)) + ((e & f) ^ (~e & g)) + k[i] + w[i];
    const std::uint32_t t2 =
        (turn(a, 2) ^ turn(a, 13) ^ turn(a, 22)) + ((a & b) ^ (a & c) ^ (b & c));
    h = g;
    g = f;
    f = e;
    e = d + t1;
    d = c;
    c = b;
    b = a;
    a = t1 + t2;
  }
  const std::uint32_t sum[8] = {a, b, c, d, e, f, g, h};
  for (int i = 0; i < 8; ++i)
    h_[i] += sum[i];
}

void Sha256::add(const void* data, std::size_t length) noexcept {
  const auto* p = static_cast<const unsigned char*>(data);
  std::size_t held = total_ % 64;
  total_ += length;
  while (length > 0) {
    const std::size_t n = length < 64 - held ? length : 64 - held;
    std::memcpy(buffer_ + held, p, n);
    held += n;
    p += n;
    length -= n;
    if (held == 64) {
      block(buffer_);
      held = 0;
    }
  }
}

void Sha256::finish(unsigned char digest[size]) noexcept {
  const std::uint64_t bits = total_ * 8;
  const unsigned char one = 0x80, zero = 0;
  add(&one, 1);
  while (total_ % 64 != 56)
    add(&zero, 1);
  unsigned char length[8];
  for (int i = 0; i < 8; ++i)
    length[i] = static_cast<unsigned char>(bits >> (56 - 8 * i));
  add(length, 8);
  for (int i = 0; i < 32; ++i)
    digest[i] = static_cast<unsigned char>(h_[i / 4] >> (24 - 8 * (i % 4)));
}

void hmac_sha256(const void* key, std::size_t key_size, const void* text, std::size_t text_size,
                 unsigned char digest[Sha256::size]) noexcept {
  unsigned char pad[64] = {};
  if (key_size > sizeof pad) {
    Sha256 hashed;
    hashed.add(key, key_size);
    hashed.finish(pad);
  } else {
    std::memcpy(pad, key, key_size);
  }
  for (unsigned char& c : pad)
    c ^= 0x36;
  Sha256 inner;
  inner.add(pad, sizeof pad);
  inner.add(text, text_size);
  inner.finish(digest);
  for (unsigned char& c : pad)
    c ^= 0x36 ^ 0x5c;
  Sha256 outer;
  outer.add(pad, sizeof pad);
  outer.add(digest, Sha256::size);
  outer.finish(digest);
}

void to_hex(const unsigned char* bytes, std::size_t size, char* out) noexcept {
  static const char digits[] = "0123456789abcdef";
  for (std::size_t i = 0; i < size; ++i) {
    *out++ = digits[bytes[i] >> 4];
    *out++ = digits[bytes[i] & 15];
  }
  *out = '\0';
}

}  // namespace blockloom::dump
