#include "proto/dump/crc32c.hpp"

#include <cstring>

#if defined(__x86_64__)
#include <nmmintrin.h>
#endif

namespace blockloom::dump {
namespace {

constexpr std::uint32_t polynomial = 0x82f63b78;  // reflected

struct Tables {
  std::uint32_t t[8][256];
  constexpr Tables() : t{} {
    for (std::uint32_t i = 0; i < 256; ++i) {
      std::uint32_t crc = i;
      for (int bit = 0; bit < 8; ++bit)
        crc = (crc >> 1) ^ ((crc & 1) != 0 ? polynomial : 0);
      t[0][i] = crc;
    }
    for (std::uint32_t i = 0; i < 256; ++i)
      for (int k = 1; k < 8; ++k)
        t[k][i] = (t[k - 1][i] >> 8) ^ t[0][t[k - 1][i] & 0xff];
  }
};
constexpr Tables tables;

std::uint32_t by_table(std::uint32_t crc, const unsigned char* p, std::size_t size) noexcept {
  const auto& t = tables.t;
  for (; size >= 8; size -= 8, p += 8) {
    crc ^= std::uint32_t{p[0]} | std::uint32_t{p[1]} << 8 | std::uint32_t{p[2]} << 16 |
           std::uint32_t{p[3]} << 24;
    crc = t[7][crc & 0xff] ^ t[6][(crc >> 8) & 0xff] ^ t[5][(crc >> 16) & 0xff] ^ t[4][crc >> 24] ^
          t[3][p[4]] ^ t[2][p[5]] ^ t[1][p[6]] ^ t[0][p[7]];
  }
  for (; size > 0; --size, ++p)
    crc = (crc >> 8) ^ t[0][(crc ^ *p) & 0xff];
  return crc;
}

#if defined(__x86_64__)
__attribute__((target("sse4.2"))) std::uint32_t by_instruction(std::uint32_t crc,
                                                               const unsigned char* p,
                                                               std::size_t size) noexcept {
  std::uint64_t wide = crc;
  for (; size >= 8; size -= 8, p += 8) {
    std::uint64_t word;
    std::memcpy(&word, p, 8);
    wide = _mm_crc32_u64(wide, word);
  }
  crc = static_cast<std::uint32_t>(wide);
  for (; size > 0; --size, ++p)
    crc = _mm_crc32_u8(crc, *p);
  return crc;
}
#endif

/// A matrix over GF(2) times a vector: what a run of zeros does to a CRC.
std::uint32_t times(const std::uint32_t* matrix, std::uint32_t vector) noexcept {
  std::uint32_t sum = 0;
  for (; vector != 0; vector >>= 1, ++matrix)
    if ((vector & 1) != 0) sum ^= *matrix;
  return sum;
}

void square(std::uint32_t* out, const std::uint32_t* in) noexcept {
  for (int i = 0; i < 32; ++i)
    out[i] = times(in, in[i]);
}

}  // namespace

std::uint32_t crc32c(std::uint32_t crc, const void* data, std::size_t size) noexcept {
  const auto* p = static_cast<const unsigned char*>(data);
#if defined(__x86_64__)
  static const bool fast = __builtin_cpu_supports("sse4.2") != 0;
  if (fast) return ~by_instruction(~crc, p, size);
#endif
  return ~by_table(~crc, p, size);
}

std::uint32_t crc32c_combine(std::uint32_t first, std::uint32_t second,
                             std::uint64_t second_size) noexcept {
  if (second_size == 0) return first;
  std::uint32_t odd[32], even[32];
  odd[0] = polynomial;  // one zero bit
  for (int i = 1; i < 32; ++i)
    odd[i] = std::uint32_t{1} << (i - 1);
  square(even, odd);  // two
  square(odd, even);  // four
  for (std::uint64_t left = second_size;;) {
    square(even, odd);
    if ((left & 1) != 0) first = times(even, first);
    left >>= 1;
    if (left == 0) break;
    square(odd, even);
    if ((left & 1) != 0) first = times(odd, first);
    left >>= 1;
    if (left == 0) break;
  }
  return first ^ second;
}

}  // namespace blockloom::dump
