#include "server/iscsi/options.hpp"

#include <string>
#include <thread>
#include <vector>

#include <doctest/doctest.h>

#include "server/iscsi/mailbox.hpp"

using namespace blockloom;
using namespace blockloom::iscsi;

namespace {

Address address(const char* text) {
  const auto range = parse_address_range(text);
  REQUIRE_MESSAGE(bool(range), text);
  return range.value().address;
}

}  // namespace

TEST_CASE("portals: an address, and a port if it is another than 3260") {
  const auto written = [](const char* text) {
    auto portal = parse_portal(text);
    return portal ? to_string(portal.value()) : std::string("refused");
  };
  CHECK(written("127.0.0.1") == "127.0.0.1:3260");
  CHECK(written("192.0.2.1:860") == "192.0.2.1:860");
  CHECK(written("[::1]") == "[::1]:3260");
  CHECK(written("[2001:db8::1]:3261") == "[2001:db8::1]:3261");
  CHECK(written("*") == "0.0.0.0:3260");
  CHECK(written("localhost:1") == "127.0.0.1:1");
  for (const char* wrong :
       {"", ":3260", "host", "host:3260", "::1", "[::1", "[127.0.0.1]", "127.0.0.1:", "127.0.0.1:0",
        "127.0.0.1:65536", "127.0.0.1:x", "127.0.0.1:3260x", "1.2.3", "[::1]3260"})
    CHECK_MESSAGE(written(wrong) == "refused", wrong);
}

TEST_CASE("public is what somebody outside this machine can reach") {
  const auto open = [](const char* text) { return is_public(parse_portal(text).value()); };
  CHECK_FALSE(open("127.0.0.1"));
  CHECK_FALSE(open("127.9.9.9"));
  CHECK_FALSE(open("[::1]"));
  CHECK(open("*"));
  CHECK(open("[::]"));
  CHECK(open("192.0.2.1"));
  CHECK_FALSE(open("[::ffff:127.0.0.1]"));
}

TEST_CASE("ranges of addresses, IPv4 and IPv6") {
  const auto holds = [](const char* range, const char* other) {
    return parse_address_range(range).value().holds(address(other));
  };
  CHECK(holds("192.0.2.0/24", "192.0.2.255"));
  CHECK_FALSE(holds("192.0.2.0/24", "192.0.3.0"));
  CHECK(holds("192.0.2.128/25", "192.0.2.200"));
  CHECK_FALSE(holds("192.0.2.128/25", "192.0.2.100"));
  CHECK(holds("0.0.0.0/0", "203.0.113.9"));
  CHECK_FALSE(holds("0.0.0.0/0", "2001:db8::1"));
  CHECK(holds("2001:db8::/32", "2001:db8:ffff::1"));
  CHECK_FALSE(holds("2001:db8::/32", "2001:db9::1"));
  CHECK(holds("::/0", "192.0.2.1"));
  CHECK(holds("192.0.2.7", "192.0.2.7"));
  CHECK_FALSE(holds("192.0.2.7", "192.0.2.6"));
  for (const char* wrong : {"", "host", "192.0.2.0/33", "::/129", "192.0.2.0/", "1.2.3.4/x", "/8"})
    CHECK_FALSE_MESSAGE(bool(parse_address_range(wrong)), wrong);
}

TEST_CASE("access: by name, by prefix of a name, by address, by both") {
  Access access;
  CHECK(access.allows("iqn.any", address("192.0.2.1")));
  access.initiators = {"iqn.one", "iqn.two:*"};
  CHECK(access.allows("iqn.one", address("192.0.2.1")));
  CHECK(access.allows("iqn.two:x", address("192.0.2.1")));
  CHECK_FALSE(access.allows("iqn.one:x", address("192.0.2.1")));
  CHECK_FALSE(access.allows("iqn.tw", address("192.0.2.1")));
  access.addresses = {parse_address_range("192.0.2.0/24").value()};
  CHECK(access.allows("iqn.one", address("192.0.2.1")));
  CHECK_FALSE(access.allows("iqn.one", address("198.51.100.1")));
}

TEST_CASE("mail arrives in the order in which it was pushed, from many threads, with one wake") {
  struct Box final : Mailbox {
    std::atomic<int> wakes{0};
    void wake() noexcept override { ++wakes; }
  };
  Box box;
  std::vector<int> arrived;
  for (int i = 0; i < 5; ++i)
    box.post([&arrived, i] { arrived.push_back(i); });
  CHECK(box.wakes == 1);
  box.drain();
  CHECK(arrived == std::vector<int>{0, 1, 2, 3, 4});
  std::vector<std::thread> threads;
  std::atomic<int> sum{0};
  std::array<int, 4> last{};
  for (int t = 0; t < 4; ++t)
    threads.emplace_back([&, t] {
      for (int i = 1; i <= 1000; ++i)
        box.post([&, t, i] {
          CHECK(last[static_cast<std::size_t>(t)] == i - 1);
          last[static_cast<std::size_t>(t)] = i;
          ++sum;
        });
    });
  while (sum < 4000)
    box.drain();
  for (std::thread& thread : threads)
    thread.join();
  box.drain();
  CHECK(sum == 4000);
}
