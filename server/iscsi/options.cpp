#include "server/iscsi/options.hpp"

#include <algorithm>
#include <cstring>

#include <arpa/inet.h>
#include <fmt/format.h>
#include <netinet/in.h>

#include "proto/text/number.hpp"

namespace blockloom::iscsi {
namespace {

constexpr Address mapped_prefix{0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff, 0, 0, 0, 0};

bool is_mapped(const Address& address) noexcept {
  return std::equal(address.begin(), address.begin() + 12, mapped_prefix.begin());
}

/// Numeric only.
bool parse_address(const std::string& text, Address& out, bool& v4) noexcept {
  out = mapped_prefix;
  v4 = ::inet_pton(AF_INET, text.c_str(), out.data() + 12) == 1;
  return v4 || ::inet_pton(AF_INET6, text.c_str(), out.data()) == 1;
}

bool parse_unsigned(std::string_view text, unsigned max, unsigned& out) noexcept {
  return parse_whole(text, out) && out <= max;
}

}  // namespace

Address address_of(const sockaddr_storage& from) noexcept {
  Address address = mapped_prefix;
  if (from.ss_family == AF_INET)
    std::memcpy(address.data() + 12, &reinterpret_cast<const sockaddr_in&>(from).sin_addr, 4);
  else if (from.ss_family == AF_INET6)
    std::memcpy(address.data(), &reinterpret_cast<const sockaddr_in6&>(from).sin6_addr, 16);
  return address;
}

bool is_loopback(const Address& address) noexcept {
  constexpr Address v6{0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1};
  return address == v6 || (is_mapped(address) && address[12] == 127);
}

bool is_wildcard(const Address& address) noexcept {
  return address == Address{} || address == mapped_prefix;
}

bool AddressRange::holds(const Address& other) const noexcept {
  const unsigned bytes = prefix / 8, bits = prefix % 8;
  if (!std::equal(address.begin(), address.begin() + bytes, other.begin())) return false;
  return bits == 0 || (address[bytes] ^ other[bytes]) >> (8 - bits) == 0;
}

Result<AddressRange> parse_address_range(std::string_view text) {
  const auto bad = [&] {
    return Error{Errc::invalid, fmt::format("{} is not an address: expected one as 192.0.2.7, "
                                            "192.0.2.0/24 or 2001:db8::/32",
                                            quoted(text))};
  };
  const std::size_t slash = text.find('/');
  AddressRange range;
  bool v4 = false;
  if (!parse_address(std::string(text.substr(0, slash)), range.address, v4)) return bad();
  unsigned prefix = v4 ? 32 : 128;
  if (slash != std::string_view::npos && !parse_unsigned(text.substr(slash + 1), prefix, prefix))
    return bad();
  range.prefix = v4 ? prefix + 96 : prefix;
  return range;
}

Result<PortalOptions> parse_portal(std::string_view text) {
  const auto bad = [&] {
    return Error{Errc::invalid,
                 fmt::format("{} is not a portal: expected ADDRESS[:PORT], as in 127.0.0.1:3260, "
                             "[::1]:3260 or *:3260",
                             quoted(text))};
  };
  PortalOptions portal;
  std::string_view rest;
  if (text.starts_with('[')) {
    const std::size_t close = text.find(']');
    if (close == std::string_view::npos) return bad();
    portal.host = text.substr(1, close - 1);
    rest = text.substr(close + 1);
    if (portal.host.find(':') == std::string::npos) return bad();
  } else {
    const std::size_t colon = text.find(':');
    portal.host = text.substr(0, colon);
    rest = colon == std::string_view::npos ? std::string_view() : text.substr(colon);
  }
  unsigned port = iscsi_port;
  if (!rest.empty() &&
      (rest[0] != ':' || !parse_unsigned(rest.substr(1), 65535, port) || port == 0))
    return bad();
  portal.port = static_cast<std::uint16_t>(port);
  if (portal.host == "*") portal.host = "0.0.0.0";
  if (portal.host == "localhost") portal.host = "127.0.0.1";
  Address address{};
  bool v4 = false;
  if (!parse_address(portal.host, address, v4)) return bad();
  return portal;
}

std::string to_string(const PortalOptions& portal) {
  const bool v6 = portal.host.find(':') != std::string::npos;
  return v6 ? fmt::format("[{}]:{}", portal.host, portal.port)
            : fmt::format("{}:{}", portal.host, portal.port);
}

bool is_public(const PortalOptions& portal) {
  Address address{};
  bool v4 = false;
  return !parse_address(portal.host, address, v4) || !is_loopback(address);
}

socklen_t to_sockaddr(const PortalOptions& portal, sockaddr_storage& out) noexcept {
  out = {};
  auto& v4 = reinterpret_cast<sockaddr_in&>(out);
  auto& v6 = reinterpret_cast<sockaddr_in6&>(out);
  if (::inet_pton(AF_INET, portal.host.c_str(), &v4.sin_addr) == 1) {
    v4.sin_family = AF_INET;
    v4.sin_port = htons(portal.port);
    return sizeof v4;
  }
  v6.sin6_family = AF_INET6;
  v6.sin6_port = htons(portal.port);
  return ::inet_pton(AF_INET6, portal.host.c_str(), &v6.sin6_addr) == 1 ? sizeof v6 : 0;
}

bool Access::allows(std::string_view initiator, const Address& address) const noexcept {
  const auto name_fits = [&](const std::string& name) {
    return name.ends_with('*')
               ? initiator.starts_with(std::string_view(name).substr(0, name.size() - 1))
               : initiator == name;
  };
  if (!initiators.empty() && std::none_of(initiators.begin(), initiators.end(), name_fits))
    return false;
  return addresses.empty() ||
         std::any_of(addresses.begin(), addresses.end(),
                     [&](const AddressRange& range) { return range.holds(address); });
}

IscsiOptions with_defaults(IscsiOptions options) {
  if (options.portals.empty()) {
    PortalOptions portal;
    portal.host = "127.0.0.1";
    options.portals.push_back(std::move(portal));
  }
  if (options.targets.empty()) {
    TargetOptions target;
    target.name = default_target;
    target.all_devices = true;
    options.targets.push_back(std::move(target));
  }
  return options;
}

IscsiOptions served(IscsiOptions options) {
  if (options.enabled) return with_defaults(std::move(options));
  options.portals.clear();
  options.targets.clear();
  return options;
}

}  // namespace blockloom::iscsi
