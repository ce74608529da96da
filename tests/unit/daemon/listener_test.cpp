#include "server/daemon/listener.hpp"

#include <string>

#include <doctest/doctest.h>
#include <linux/vm_sockets.h>
#include <netinet/in.h>

using namespace blockloom;

namespace {

std::string normal(const std::string& text) {
  auto listener = parse_listener(text);
  return listener ? to_string(*listener) : "error: " + listener.error().message;
}

bool is_public_text(const std::string& text) {
  auto listener = parse_listener(text);
  REQUIRE_MESSAGE(listener, text);
  return is_public(*listener);
}

}  // namespace

TEST_CASE("every form of a listener is read and written in full") {
  CHECK(normal("tcp:127.0.0.1:10809") == "tcp:127.0.0.1:10809");
  CHECK(normal("tcp:127.0.0.1") == "tcp:127.0.0.1:10809");
  CHECK(normal("tcp:[::1]:1") == "tcp:[::1]:1");
  CHECK(normal("tcp:[::1]") == "tcp:[::1]:10809");
  CHECK(normal("tcp:[fe80::1%lo]:65535") == "tcp:[fe80::1%lo]:65535");
  CHECK(normal("tcp:localhost:10810") == "tcp:localhost:10810");
  CHECK(normal("tcp:*") == "tcp:*:10809");
  CHECK(normal("unix:/run/blockloom/nbd.sock") == "unix:/run/blockloom/nbd.sock");
  CHECK(normal("vsock:10809") == "vsock:any:10809");
  CHECK(normal("vsock:any:1") == "vsock:any:1");
  CHECK(normal("vsock:host:10809") == "vsock:host:10809");
  CHECK(normal("vsock:local:10809") == "vsock:local:10809");
  CHECK(normal("vsock:7:4294967294") == "vsock:7:4294967294");
}

TEST_CASE("a malformed listener's error names it and what was expected") {
  const auto error = [](const std::string& text) {
    auto listener = parse_listener(text);
    REQUIRE_MESSAGE(!listener, text);
    CHECK(listener.code() == Errc::invalid);
    return listener.error().message;
  };
  const auto has = [&](const std::string& text, const std::string& part) {
    const std::string message = error(text);
    CHECK_MESSAGE(message.find(part) != std::string::npos, message);
  };
  has("", "expected tcp:ADDRESS");
  has("10809", "listener '10809': expected tcp:ADDRESS");
  has("tcp:", "expected tcp:ADDRESS");
  has("tcp:example.com:10809", "'tcp:example.com:10809'");
  has("tcp:127.0.0.1:0", "port '0': expected a number from 1 to 65535");
  has("tcp:127.0.0.1:65536", "port '65536'");
  has("tcp:127.0.0.1:", "port ''");
  has("tcp:127.0.0.1:1x", "port '1x'");
  has("tcp:::1:10809", "in brackets");
  has("tcp:[::1", "not closed");
  has("tcp:[::1]10809", "expected tcp:ADDRESS");
  has("tcp:[127.0.0.1]:1", "not an IPv6 address");
  has("tcp:[fe80::1%no-such-interface]:1", "interface");
  has("tcp:1.2.3:1", "expected tcp:ADDRESS");
  has("unix:relative.sock", "absolute path");
  has("unix:/", "absolute path");
  has("unix:/" + std::string(200, 'a'), "201 bytes; a Unix socket's may have 107");
  has("vsock:", "port ''");
  has("vsock:guest:10809", "CID 'guest'");
  has("vsock:4294967295:1", "CID '4294967295'");
  has("vsock:-1", "port '-1'");
  has("udp:127.0.0.1:1", "expected tcp:ADDRESS");
  has("unix:/a\nb", "control character");
}

TEST_CASE("public is what somebody outside this machine's users can reach") {
  CHECK_FALSE(is_public_text("tcp:127.0.0.1:10809"));
  CHECK_FALSE(is_public_text("tcp:127.255.3.4:10809"));
  CHECK_FALSE(is_public_text("tcp:[::1]:10809"));
  CHECK_FALSE(is_public_text("tcp:[::ffff:127.0.0.1]:10809"));
  CHECK_FALSE(is_public_text("tcp:localhost"));
  CHECK_FALSE(is_public_text("unix:/run/nbd.sock"));
  CHECK_FALSE(is_public_text("vsock:local:10809"));

  CHECK(is_public_text("tcp:*"));
  CHECK(is_public_text("tcp:0.0.0.0"));
  CHECK(is_public_text("tcp:128.0.0.1"));
  CHECK(is_public_text("tcp:10.0.0.1"));
  CHECK(is_public_text("tcp:[::]"));
  CHECK(is_public_text("tcp:[::ffff:10.0.0.1]"));
  CHECK(is_public_text("tcp:[fe80::1%lo]"));
  CHECK(is_public_text("vsock:10809"));
  CHECK(is_public_text("vsock:3:10809"));
  CHECK(is_public_text("vsock:host:10809"));
}

TEST_CASE("addresses to bind say the same as the listener they come from") {
  for (const char* text : {"tcp:127.0.0.1:10809", "tcp:[::1]:77", "unix:/run/nbd.sock",
                           "vsock:any:10809", "vsock:local:3"}) {
    auto listener = parse_listener(text);
    REQUIRE(listener);
    const auto list = addresses(*listener);
    REQUIRE(list.size() == 1);
    auto back = listener_of(list.front());
    REQUIRE(back);
    CHECK(to_string(*back) == text);
  }
}

TEST_CASE("localhost and * are an IPv4 and an IPv6 address each") {
  for (const char* text : {"tcp:localhost:5", "tcp:*:5"}) {
    auto listener = parse_listener(text);
    REQUIRE(listener);
    const auto list = addresses(*listener);
    REQUIRE(list.size() == 2);
    CHECK(list[0].storage.ss_family == AF_INET);
    CHECK(list[1].storage.ss_family == AF_INET6);
  }
}
