#pragma once

#include <array>
#include <compare>
#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include <sys/socket.h>

#include "server/base/error.hpp"

namespace blockloom::dump {

/// An IPv4 or IPv6 address; an IPv4 one that came in IPv6's clothes (::ffff:a.b.c.d) is IPv4.
class Address {
 public:
  Address() = default;
  static Result<Address> parse(std::string_view text);
  static Address of(const sockaddr* address);

  bool v4() const noexcept { return v4_; }
  bool loopback() const noexcept;
  bool any() const noexcept;
  std::string text() const;
  const std::array<std::uint8_t, 16>& bytes() const noexcept { return bytes_; }
  /// Fills a socket address; gives its length.
  socklen_t to_socket(std::uint16_t port, sockaddr_storage& out) const noexcept;

  auto operator<=>(const Address&) const = default;

 private:
  bool v4_ = true;
  std::array<std::uint8_t, 16> bytes_{};  // IPv4: the first four
};

/// "10.0.0.0/8", "fe80::/10", "192.0.2.7".
struct Network {
  Address address;
  unsigned prefix = 0;  ///< bits
  bool contains(const Address& other) const noexcept;
  std::string text() const;
  bool operator==(const Network&) const = default;
};
Result<Network> parse_network(std::string_view text);

/// An address and a port to bind: "udp:ADDRESS[:PORT]" or "tcp:…", IPv6 in brackets, "*" for all
/// of IPv4. No names: what is bound must not depend on a name service.
struct BindPoint {
  Address address;
  std::uint16_t port = 0;
  std::string text() const;
  bool operator==(const BindPoint&) const = default;
};
Result<BindPoint> parse_bind_point(std::string_view text, std::string_view scheme,
                                   std::uint16_t default_port);

}  // namespace blockloom::dump
