#include "proto/dump/netdump.hpp"

#include <limits>

namespace blockloom::dump {

std::string_view to_string(NetdumpError error) noexcept {
  switch (error) {
    case NetdumpError::none:
      return "none";
    case NetdumpError::runt:
      return "shorter than a header of 24 bytes";
    case NetdumpError::length:
      return "its length field is not the length of what follows";
    case NetdumpError::type:
      return "its type is none of netdump's";
    case NetdumpError::overflow:
      return "offset and length pass 2^63";
    case NetdumpError::payload:
      return "its payload has a size that its type cannot have";
  }
  return "unknown";
}

NetdumpError parse_netdump(ByteView datagram, NetdumpMessage& out) noexcept {
  if (datagram.size() < netdump_header_size) return NetdumpError::runt;
  const std::byte* p = datagram.data();
  const std::uint32_t type = be32(p);
  if (type < 1 || type > 5) return NetdumpError::type;
  out.type = static_cast<NetdumpType>(type);
  out.seqno = be32(p + 4);
  out.offset = be64(p + 8);
  out.payload = datagram.subspan(netdump_header_size);
  const std::uint64_t length = be32(p + 16);
  if (length != out.payload.size()) return NetdumpError::length;
  constexpr auto last = static_cast<std::uint64_t>(std::numeric_limits<std::int64_t>::max());
  if (out.offset > last || length > last - out.offset) return NetdumpError::overflow;
  switch (out.type) {
    case NetdumpType::herald:
      // aux2 is netgdb's version in a herald of netgdb, and 0 for netdump.
      if (be32(p + 20) != 0) return NetdumpError::type;
      return length <= netdump_path_max ? NetdumpError::none : NetdumpError::payload;
    case NetdumpType::finished:
      return length == 0 ? NetdumpError::none : NetdumpError::payload;
    case NetdumpType::kdh:
      return length == 512 && out.offset == 0 ? NetdumpError::none : NetdumpError::payload;
    case NetdumpType::vmcore:
    case NetdumpType::ekcd_key:
      return length > 0 ? NetdumpError::none : NetdumpError::payload;
  }
  return NetdumpError::type;
}

std::array<std::byte, netdump_ack_size> netdump_ack(std::uint32_t seqno) noexcept {
  std::array<std::byte, netdump_ack_size> ack;
  put_be32(ack.data(), seqno);
  return ack;
}

bool parse_herald_path(ByteView payload, std::string& path) {
  path.clear();
  if (payload.empty()) return true;
  std::string_view text = as_text(payload);
  if (text.back() != '\0') return false;
  text.remove_suffix(1);
  for (const char c : text)
    if (static_cast<unsigned char>(c) < ' ' || c == 0x7f) return false;
  for (std::string_view rest = text; !rest.empty();) {
    const std::size_t slash = rest.find('/');
    const std::string_view part = rest.substr(0, slash);
    if (part.empty() || part == "..") return false;
    rest.remove_prefix(slash == std::string_view::npos ? rest.size() : slash + 1);
  }
  path = text;
  return true;
}

}  // namespace blockloom::dump
