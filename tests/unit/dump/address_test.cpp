#include "server/dump/address.hpp"

#include <doctest/doctest.h>

#include "server/dump/admission.hpp"
#include "server/dump/options.hpp"

using namespace blockloom;
using namespace blockloom::dump;

namespace {

Address address(std::string_view text) {
  auto parsed = Address::parse(text);
  REQUIRE(parsed);
  return *parsed;
}

Network network(std::string_view text) {
  auto parsed = parse_network(text);
  REQUIRE(parsed);
  return *parsed;
}

}  // namespace

TEST_CASE("addresses read and write, and an IPv4 one in IPv6's clothes is IPv4") {
  CHECK(address("192.0.2.7").text() == "192.0.2.7");
  CHECK(address("fe80::1").text() == "fe80::1");
  CHECK(address("::ffff:192.0.2.7") == address("192.0.2.7"));
  CHECK(address("127.9.9.9").loopback());
  CHECK(address("::1").loopback());
  CHECK_FALSE(address("::2").loopback());
  CHECK(address("0.0.0.0").any());
  for (const char* bad : {"", "a", "1.2.3", "1.2.3.256", "::g", "1.2.3.4/8"})
    CHECK_FALSE(Address::parse(bad));
}

TEST_CASE("a network holds the addresses of its prefix, and only its family's") {
  CHECK(network("10.0.0.0/8").contains(address("10.255.1.1")));
  CHECK_FALSE(network("10.0.0.0/8").contains(address("11.0.0.1")));
  CHECK(network("10.1.2.128/25").contains(address("10.1.2.200")));
  CHECK_FALSE(network("10.1.2.128/25").contains(address("10.1.2.127")));
  CHECK(network("192.0.2.7").contains(address("192.0.2.7")));
  CHECK_FALSE(network("192.0.2.7").contains(address("192.0.2.6")));
  CHECK(network("0.0.0.0/0").contains(address("1.2.3.4")));
  CHECK_FALSE(network("0.0.0.0/0").contains(address("::1")));
  CHECK(network("fe80::/10").contains(address("febf::1")));
  CHECK(network("10.0.0.0/8").text() == "10.0.0.0/8");
  for (const char* bad : {"10.0.0.0/33", "10.0.0.0/", "10.0.0.0/x", "/8", "fe80::/129"})
    CHECK_FALSE(parse_network(bad));
}

TEST_CASE("a bind point has an address and a port, and no name") {
  auto point = parse_bind_point("udp:127.0.0.1", "udp", 20023);
  REQUIRE(point);
  CHECK(point->text() == "127.0.0.1:20023");
  CHECK(parse_bind_point("tcp:[::1]:99", "tcp", 1)->text() == "[::1]:99");
  CHECK(parse_bind_point("udp:*:5", "udp", 1)->text() == "0.0.0.0:5");
  for (const char* bad : {"127.0.0.1", "tcp:127.0.0.1", "udp:localhost", "udp:127.0.0.1:",
                          "udp:127.0.0.1:65536", "udp:[::1", "udp:::1", "udp:[::1]5"}) {
    CAPTURE(bad);
    CHECK_FALSE(parse_bind_point(bad, "udp", 1));
  }
}

TEST_CASE("a public listener wants a list of who may send") {
  Options options;
  options.store = "/x";
  options.netdump = {parse_bind_point("udp:*", "udp", 1).value()};
  CHECK_FALSE(check_options(options));
  options.allow = {network("10.0.0.0/8")};
  CHECK(check_options(options));
  options.allow.clear();
  options.insecure = true;
  CHECK(check_options(options));
  options.store.clear();
  CHECK_FALSE(check_options(options));
}

TEST_CASE("sessions are counted, and an address begins only so often") {
  Admission admission(3, 2);
  const TimePoint start{};
  CHECK(admission.begins(address("10.0.0.1"), start));
  CHECK(admission.begins(address("10.0.0.1"), start));
  CHECK_FALSE(admission.begins(address("10.0.0.1"), start));
  CHECK(admission.begins(address("10.0.0.2"), start));
  CHECK_FALSE(admission.begins(address("10.0.0.3"), start));
  admission.ended();
  CHECK(admission.begins(address("10.0.0.1"), start + std::chrono::minutes(1)));
  CHECK(admission.sessions() == 3);
}
