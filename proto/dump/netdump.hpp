#pragma once

#include <array>
#include <cstdint>
#include <string>
#include <string_view>

#include "proto/dump/bytes.hpp"

namespace blockloom::dump {

// FreeBSD netdump: sys/net/debugnet.h, sys/netinet/netdump/netdump.h.

inline constexpr std::uint16_t netdump_port = 20023;  ///< clients send from 20024
inline constexpr std::size_t netdump_header_size = 24;
inline constexpr std::size_t netdump_ack_size = 4;
/// A client has at most so many packets in flight (a bitmap of 64 bits).
inline constexpr std::uint32_t netdump_window = 64;
/// Paths of heralds are at most this long, with their NUL (FreeBSD's MAXPATHLEN).
inline constexpr std::size_t netdump_path_max = 1024;

enum class NetdumpType : std::uint32_t {
  herald = 1,    ///< empty, or a relative path with its NUL
  finished = 2,  ///< empty
  vmcore = 3,    ///< bytes of the dump at `offset`
  kdh = 4,       ///< the kernel dump header, 512 bytes
  ekcd_key = 5,  ///< bytes of the key file at `offset`
};

struct NetdumpMessage {
  NetdumpType type = NetdumpType::herald;
  std::uint32_t seqno = 0;   ///< from 1, the herald's
  std::uint64_t offset = 0;  ///< inside the object that the type names
  ByteView payload;          ///< a view into the datagram
};

/// Why a datagram is no message; it gets no ack.
enum class NetdumpError : std::uint8_t {
  none,
  runt,      ///< shorter than the header
  length,    ///< `len` is not what follows
  type,      ///< unknown, or another protocol over debugnet (netgdb)
  overflow,  ///< offset + length passes 2^63 - 1
  payload,   ///< of a size that its type cannot have
};
std::string_view to_string(NetdumpError error) noexcept;

NetdumpError parse_netdump(ByteView datagram, NetdumpMessage& out) noexcept;

std::array<std::byte, netdump_ack_size> netdump_ack(std::uint32_t seqno) noexcept;

/// The path of a herald, empty without one. False unless it is relative, ends in its only NUL,
/// and has neither "..", empty parts nor control characters: such a herald is not answered.
bool parse_herald_path(ByteView payload, std::string& path);

}  // namespace blockloom::dump
