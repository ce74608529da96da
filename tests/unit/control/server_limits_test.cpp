// What one client may cost the others: nothing past the limits.
#include <string>

#include <doctest/doctest.h>
#include <fmt/format.h>
#include <sys/stat.h>

#include "tests/unit/control/support.hpp"

using namespace blockloom;
using namespace std::chrono_literals;

namespace {}  // namespace

TEST_CASE("the socket is for its owner only") {
  TestServer server;
  struct stat there {};
  REQUIRE(::stat(server.path.c_str(), &there) == 0);
  CHECK((there.st_mode & 0777) == 0600);
}

TEST_CASE("a request over the limit is refused before it has come whole, and the connection ends") {
  control::Options options;
  options.limits.request_bytes = 10'000;
  TestServer server(options);
  TestClient client(server.path);
  client.send(std::string(200'000, ' ') + "[");
  const rpc::Reply reply = client.reply();
  REQUIRE(reply.failure);
  CHECK(reply.failure->message == "a request is longer than 10000 bytes");
  CHECK(client.at_end());
  TestClient other(server.path);
  CHECK_FALSE(other.call("version").failure);
}

TEST_CASE("sixteen megabytes pass") {
  TestServer server;
  TestClient client(server.path);
  const std::string padding(15'000'000, ' ');
  REQUIRE(client.send(R"({"jsonrpc":"2.0","id":1,"method":"version"})" + padding + "\n"));
  CHECK_FALSE(client.reply().failure);
}

TEST_CASE("what all connections keep unread together is bounded") {
  control::Options options;
  options.limits.total_request_bytes = 100'000;
  TestServer server(options);
  TestClient first(server.path);
  TestClient second(server.path);
  CHECK_FALSE(first.call("version").failure);
  REQUIRE(first.send(std::string(60'000, 'x')));
  CHECK_FALSE(second.call("version").failure);
  second.send(std::string(60'000, 'x'));
  // Whichever was over: one is refused, and with it gone the rest is served.
  TestClient third(server.path);
  CHECK(errc_of(second.reply()) == "limit");
  CHECK(second.at_end());
  CHECK_FALSE(third.call("version").failure);
  REQUIRE(first.send("\n"));
  CHECK(first.reply().failure->code == rpc::code::parse_error);
}

TEST_CASE("a connection too many is told so, and one that ends makes room") {
  control::Options options;
  options.limits.connections = 2;
  TestServer server(options);
  auto first = std::make_unique<TestClient>(server.path);
  TestClient second(server.path);
  CHECK_FALSE(first->call("version").failure);
  CHECK_FALSE(second.call("version").failure);
  {
    TestClient third(server.path);
    CHECK(errc_of(third.reply()) == "limit");
    CHECK(third.at_end());
  }
  first.reset();
  for (;;) {  // the server may see the end a moment later
    TestClient third(server.path);
    if (!third.send("{\"jsonrpc\":\"2.0\",\"id\":1,\"method\":\"version\"}\n")) continue;
    const std::string line = third.line();
    if (line.find("result") != std::string::npos) break;
    REQUIRE(line.find("limit") != std::string::npos);
  }
}

TEST_CASE("a connection that went away while it waits makes room too") {
  control::Options options;
  options.limits.connections = 2;
  TestServer server(options);
  TestClient client(server.path);
  client.call("create", R"({"name":"a"})");
  {
    TestClient waiter(server.path);
    REQUIRE(
        waiter.send("{\"jsonrpc\":\"2.0\",\"id\":1,\"method\":\"wait\",\"params\":{\"device\":"
                    "\"a\"}}\n"));
    CHECK_FALSE(waiter.call("version").failure);
  }
  for (;;) {
    TestClient other(server.path);
    if (!other.send("{\"jsonrpc\":\"2.0\",\"id\":1,\"method\":\"version\"}\n")) continue;
    if (other.line().find("result") != std::string::npos) break;
  }
}

TEST_CASE("waits of one connection are bounded") {
  TestServer server;
  TestClient client(server.path);
  client.call("create", R"({"name":"a"})");
  for (int i = 0; i < 33; ++i)
    REQUIRE(client.send(
        fmt::format(R"({{"jsonrpc":"2.0","id":{},"method":"wait","params":{{"device":"a"}}}})", i) +
        "\n"));
  const rpc::Reply refused = client.reply();
  CHECK(refused.id.whole() == 32);
  CHECK(errc_of(refused) == "limit");
}

TEST_CASE("a follower that does not read is dropped, and nobody else waits for it") {
  control::Options options;
  options.limits.backlog_bytes = 100'000;
  TestServer server(options);
  TestClient client(server.path);
  client.call("create", R"({"name":"a"})");
  TestClient follower(server.path, 4096);
  REQUIRE_FALSE(follower.call("events", R"({"follow":true})").failure);
  const std::string detail(2000, 'x');
  for (int i = 0; i < 400; ++i)
    server.registry.events().publish({0, 0, "a", 1, "message", detail});
  // Its socket's buffer and its backlog hold a part; then the connection ends.
  bool ended = false;
  for (int i = 0; i < 2000 && !ended; ++i) {
    server.registry.events().publish({0, 0, "a", 1, "message", detail});
    REQUIRE_FALSE(client.call("version").failure);
    ended = !follower.send("\n");
  }
  CHECK(ended);
}

TEST_CASE("a reader that takes nothing for too long is dropped") {
  control::Options options;
  options.limits.write_timeout = 50ms;
  TestServer server(options);
  std::string table;
  for (int i = 0; i < 20'000; ++i)
    table += fmt::format("{} 8 zero\\n", i * 8);
  TestClient client(server.path);
  REQUIRE_FALSE(client.call("create", R"({"name":"a","table":")" + table + "\"}").failure);
  TestClient slow(server.path, 4096);
  REQUIRE(slow.send("{\"jsonrpc\":\"2.0\",\"id\":1,\"method\":\"table\"}\n"));
  while (slow.send("\n"))
    std::this_thread::sleep_for(5ms);
  CHECK_FALSE(client.call("version").failure);
}

TEST_CASE("an answer over the limit becomes an error") {
  control::Options options;
  options.limits.reply_bytes = 1000;
  TestServer server(options);
  TestClient client(server.path);
  for (int i = 0; i < 20; ++i)
    client.call("create", fmt::format(R"({{"name":"device-{}"}})", i));
  CHECK(errc_of(client.call("info")) == "limit");
  CHECK_FALSE(client.call("info", R"({"device":"device-3"})").failure);
}

TEST_CASE("verbs past the queue's limit are refused at once") {
  control::Options options;
  options.limits.queued_verbs = 0;
  TestServer server(options);
  TestClient client(server.path);
  CHECK(errc_of(client.call("list")) == "limit");
  CHECK_FALSE(client.call("version").failure);
}
