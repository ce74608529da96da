#pragma once

#include <cstddef>
#include <cstdint>

#include "proto/dump/crc32c.hpp"

/// The frames of our own dump stream (docs/dump-protocol.md), in plain integers and bytes: what
/// the server shares with the client in an initramfs, which has no C++ library.
namespace blockloom::dump::wire {

inline constexpr std::uint16_t stream_port = 20030;
inline constexpr std::uint16_t magic = 0xb10c;
inline constexpr unsigned version = 1;
inline constexpr std::size_t header_size = 24;
inline constexpr std::uint32_t text_max = 4096;          ///< bodies of key=value lines
inline constexpr std::uint32_t dmesg_piece_max = 65536;  ///< body of one TEXT
inline constexpr std::uint64_t dmesg_max = 16u << 20;    ///< all of them
inline constexpr std::uint32_t chunk_min = 4096, chunk_max = 4u << 20, chunk_default = 256u << 10;
inline constexpr std::size_t nonce_size = 32;
inline constexpr std::size_t digest_size = 32;

enum Type : std::uint16_t {
  greeting = 1,    ///< server: lines version, nonce
  hello = 2,       ///< client: lines, see docs
  welcome = 3,     ///< server: lines id, offset, text, window
  refuse = 4,      ///< server: lines code, retry, message; then it closes
  text = 5,        ///< client: a piece of the dmesg; offset inside it
  text_end = 6,    ///< client: offset = the dmesg's length
  data = 7,        ///< client: a chunk; offset inside the stream
  zero = 8,        ///< client: chunks of zeros; body: their length, 8 bytes
  ack = 9,         ///< server: all before `offset` is durable
  end = 10,        ///< client: offset = the stream's length; body: its digest
  done = 11,       ///< server: lines state, id; then it closes
  abort = 12,      ///< client: lines message: it cannot read its image
  ping = 13,       ///< either: nothing; the other side is alive
  start_tls = 14,  ///< client: nothing; its next bytes are TLS, and the server greets again in it
};

struct Header {
  std::uint16_t type = 0;
  std::uint32_t length = 0;  ///< of the body
  std::uint64_t offset = 0;
  std::uint32_t body_crc = 0;  ///< CRC32C; 0 for an empty body
};

inline void put(unsigned char* p, std::uint64_t value, int bytes) noexcept {
  for (int i = bytes - 1; i >= 0; --i, value >>= 8)
    p[i] = static_cast<unsigned char>(value);
}
inline std::uint64_t get(const unsigned char* p, int bytes) noexcept {
  std::uint64_t value = 0;
  for (int i = 0; i < bytes; ++i)
    value = value << 8 | p[i];
  return value;
}

inline void encode(const Header& h, unsigned char out[header_size]) noexcept {
  put(out, magic, 2);
  put(out + 2, h.type, 2);
  put(out + 4, h.length, 4);
  put(out + 8, h.offset, 8);
  put(out + 16, h.body_crc, 4);
  put(out + 20, crc32c(0, out, 20), 4);
}

/// False: no frame of ours, or damaged on its way. The length is still to be checked.
inline bool decode(const unsigned char in[header_size], Header& h) noexcept {
  if (get(in, 2) != magic || get(in + 20, 4) != crc32c(0, in, 20)) return false;
  h.type = static_cast<std::uint16_t>(get(in + 2, 2));
  h.length = static_cast<std::uint32_t>(get(in + 4, 4));
  h.offset = get(in + 8, 8);
  h.body_crc = static_cast<std::uint32_t>(get(in + 16, 4));
  return true;
}

/// The longest body that a frame of this type may have; 0 for an unknown type too.
inline std::uint32_t body_max(std::uint16_t type, std::uint32_t chunk) noexcept {
  switch (type) {
    case greeting:
    case hello:
    case welcome:
    case refuse:
    case done:
    case abort:
      return text_max;
    case text:
      return dmesg_piece_max;
    case data:
      return chunk;
    case zero:
      return 8;
    case end:
      return digest_size;
    default:
      return 0;
  }
}

}  // namespace blockloom::dump::wire
