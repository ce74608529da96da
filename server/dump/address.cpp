#include "server/dump/address.hpp"

#include <algorithm>
#include <cstring>

#include <arpa/inet.h>
#include <fmt/format.h>
#include <netinet/in.h>

#include "proto/text/number.hpp"

namespace blockloom::dump {
namespace {

constexpr std::array<std::uint8_t, 12> mapped{0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff};

}  // namespace

Result<Address> Address::parse(std::string_view text) {
  const std::string zero_ended(text);
  Address address;
  if (::inet_pton(AF_INET, zero_ended.c_str(), address.bytes_.data()) == 1) return address;
  if (::inet_pton(AF_INET6, zero_ended.c_str(), address.bytes_.data()) == 1) {
    sockaddr_in6 socket{};
    socket.sin6_family = AF_INET6;
    std::memcpy(&socket.sin6_addr, address.bytes_.data(), 16);
    return of(reinterpret_cast<const sockaddr*>(&socket));
  }
  return Error{Errc::invalid,
               fmt::format("{} is not an IPv4 or IPv6 address, such as 192.0.2.7", quoted(text))};
}

Address Address::of(const sockaddr* address) {
  Address out;
  if (address->sa_family == AF_INET) {
    const auto* in = reinterpret_cast<const sockaddr_in*>(address);
    std::memcpy(out.bytes_.data(), &in->sin_addr, 4);
  } else if (address->sa_family == AF_INET6) {
    const auto* in = reinterpret_cast<const sockaddr_in6*>(address);
    std::memcpy(out.bytes_.data(), &in->sin6_addr, 16);
    out.v4_ = std::equal(mapped.begin(), mapped.end(), out.bytes_.begin());
    if (out.v4_) {
      std::copy_n(out.bytes_.begin() + 12, 4, out.bytes_.begin());
      std::fill(out.bytes_.begin() + 4, out.bytes_.end(), std::uint8_t{0});
    }
  }
  return out;
}

bool Address::loopback() const noexcept {
  if (v4_) return bytes_[0] == 127;
  return std::all_of(bytes_.begin(), bytes_.end() - 1, [](auto b) { return b == 0; }) &&
         bytes_[15] == 1;
}

bool Address::any() const noexcept {
  return std::all_of(bytes_.begin(), bytes_.end(), [](auto b) { return b == 0; });
}

std::string Address::text() const {
  char buffer[INET6_ADDRSTRLEN] = {};
  ::inet_ntop(v4_ ? AF_INET : AF_INET6, bytes_.data(), buffer, sizeof buffer);
  return buffer;
}

socklen_t Address::to_socket(std::uint16_t port, sockaddr_storage& out) const noexcept {
  out = {};
  if (v4_) {
    auto* in = reinterpret_cast<sockaddr_in*>(&out);
    in->sin_family = AF_INET;
    in->sin_port = htons(port);
    std::memcpy(&in->sin_addr, bytes_.data(), 4);
    return sizeof *in;
  }
  auto* in = reinterpret_cast<sockaddr_in6*>(&out);
  in->sin6_family = AF_INET6;
  in->sin6_port = htons(port);
  std::memcpy(&in->sin6_addr, bytes_.data(), 16);
  return sizeof *in;
}

bool Network::contains(const Address& other) const noexcept {
  if (other.v4() != address.v4()) return false;
  const unsigned whole = prefix / 8, rest = prefix % 8;
  const auto& a = address.bytes();
  const auto& b = other.bytes();
  if (!std::equal(a.begin(), a.begin() + whole, b.begin())) return false;
  return rest == 0 || ((a[whole] ^ b[whole]) >> (8 - rest)) == 0;
}

std::string Network::text() const {
  const bool one = prefix == (address.v4() ? 32u : 128u);
  return one ? address.text() : fmt::format("{}/{}", address.text(), prefix);
}

Result<Network> parse_network(std::string_view text) {
  const std::size_t slash = text.find('/');
  auto address = Address::parse(text.substr(0, slash));
  if (!address) return address.error();
  Network network{*address, address->v4() ? 32u : 128u};
  if (slash == std::string_view::npos) return network;
  const unsigned most = network.prefix;
  if (!parse_whole(text.substr(slash + 1), network.prefix) || network.prefix > most)
    return Error{Errc::invalid, fmt::format("{}: expected a prefix length of 0 to {} after the '/'",
                                            quoted(text), most)};
  return network;
}

std::string BindPoint::text() const {
  return address.v4() ? fmt::format("{}:{}", address.text(), port)
                      : fmt::format("[{}]:{}", address.text(), port);
}

Result<BindPoint> parse_bind_point(std::string_view text, std::string_view scheme,
                                   std::uint16_t default_port) {
  const auto bad = [&] {
    return Error{Errc::invalid,
                 fmt::format("{}: expected {}:ADDRESS[:PORT], as in \"{}:127.0.0.1:{}\"",
                             quoted(text), scheme, scheme, default_port)};
  };
  std::string_view rest = text;
  if (!rest.starts_with(scheme) || !rest.substr(scheme.size()).starts_with(':')) return bad();
  rest.remove_prefix(scheme.size() + 1);
  std::string_view host = rest, port;
  if (rest.starts_with('[')) {
    const std::size_t end = rest.find(']');
    if (end == std::string_view::npos) return bad();
    host = rest.substr(1, end - 1);
    rest.remove_prefix(end + 1);
    if (!rest.empty() && rest.front() != ':') return bad();
    port = rest.empty() ? rest : rest.substr(1);
    if (!rest.empty() && port.empty()) return bad();
  } else if (const std::size_t colon = rest.find(':'); colon != std::string_view::npos) {
    host = rest.substr(0, colon);
    port = rest.substr(colon + 1);
    if (port.empty()) return bad();
  }
  auto address = Address::parse(host == "*" ? "0.0.0.0" : host);
  if (!address) return bad();
  BindPoint point{*address, default_port};
  if (!port.empty() && !parse_whole(port, point.port)) return bad();
  return point;
}

}  // namespace blockloom::dump
