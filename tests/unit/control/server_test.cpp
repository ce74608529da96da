// The conversation: texts, batches, waits, events, and how it ends.
#include <algorithm>
#include <atomic>
#include <chrono>
#include <cstddef>
#include <filesystem>
#include <memory>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include <doctest/doctest.h>
#include <fmt/format.h>

#include "tests/unit/control/support.hpp"

using namespace blockloom;
using namespace std::chrono_literals;
using rpc::to_text;

namespace {

std::string call_text(int id, std::string_view method, std::string_view params = "{}") {
  return fmt::format(R"({{"jsonrpc":"2.0","id":{},"method":"{}","params":{}}})", id, method,
                     params);
}

}  // namespace

TEST_CASE("a text that is no request is answered, and the connection goes on") {
  TestServer server;
  TestClient client(server.path);
  REQUIRE(client.send("garbage\n"));
  CHECK(client.reply().failure->code == rpc::code::parse_error);
  REQUIRE(client.send("{\"jsonrpc\":\"2.0\"}\n"));
  CHECK(client.reply().failure->code == rpc::code::invalid_request);
  REQUIRE(client.send(std::string(1'000'000, '[') + "\n"));
  CHECK(client.reply().failure->message == "nested deeper than 32");
  CHECK_FALSE(client.call("version").failure);
}

TEST_CASE("a batch is answered by one array, without its notifications") {
  TestServer server;
  TestClient client(server.path);
  REQUIRE(client.send("[" + call_text(1, "version") + "," + call_text(2, "nothing") +
                      R"(,{"jsonrpc":"2.0","method":"create","params":{"name":"a"}},5])"
                      "\n"));
  rpc::Value answers;
  rpc::Failure failure;
  REQUIRE(rpc::parse_value(client.line(), answers, failure));
  REQUIRE(answers.list().size() == 3);
  CHECK(answers.list()[0]["id"].whole() == 1);
  CHECK(answers.list()[1]["error"]["code"].is_number());
  CHECK(answers.list()[2]["id"].is_null());
  CHECK(server.registry.find("a"));
}

TEST_CASE("a notification is done and not answered") {
  TestServer server;
  TestClient client(server.path);
  REQUIRE(client.send(R"({"jsonrpc":"2.0","method":"nothing"})"
                      "\n"));
  REQUIRE(client.send(R"([{"jsonrpc":"2.0","method":"list"}])"
                      "\n"));
  CHECK_FALSE(client.call("version").failure);  // its answer is the first that comes
}

TEST_CASE("many requests sent at once are all answered") {
  TestServer server;
  TestClient client(server.path);
  constexpr int many = 2000;
  std::thread sender([&] {
    for (int i = 0; i < many; ++i)
      if (!client.send(call_text(i, i % 2 == 0 ? "list" : "version") + "\n")) return;
  });
  std::vector<bool> seen(many);
  for (int i = 0; i < many; ++i) {
    const rpc::Reply reply = client.reply();
    REQUIRE_FALSE(reply.failure);
    seen[reply.id.whole()] = true;
  }
  sender.join();
  CHECK(std::count(seen.begin(), seen.end(), true) == many);
}

TEST_CASE("a client that closes its half gets its answers, and then the end") {
  TestServer server;
  TestClient client(server.path);
  REQUIRE(client.send(call_text(1, "list") + "\n" + call_text(2, "version") + "\n"));
  client.half_close();
  CHECK_FALSE(client.reply().failure);
  CHECK_FALSE(client.reply().failure);
  CHECK(client.at_end());
}

TEST_CASE("wait answers with the event, also to a client that closed its half") {
  TestServer server;
  TestClient client(server.path);
  client.call("create", R"({"name":"a","table":"0 8 zero"})");
  const auto number = client.call("info", R"({"device":"a"})")
                          .result["devices"]
                          .list()
                          .at(0)["event_number"]
                          .whole();
  CHECK(client.call("wait", R"({"device":"a","event_number":0})").result["event_number"].whole() ==
        number);

  TestClient waiter(server.path);
  REQUIRE(waiter.send(
      call_text(9, "wait", fmt::format(R"({{"device":"a","event_number":{}}})", number)) + "\n"));
  waiter.half_close();
  std::this_thread::sleep_for(50ms);  // so that the half is closed before the event
  client.call("suspend", R"({"device":"a"})");
  const rpc::Reply woken = waiter.reply();
  REQUIRE_FALSE(woken.failure);
  CHECK(woken.result["event_number"].whole() > number);
  CHECK(waiter.at_end());
}

TEST_CASE("wait ends by its time-out, and by the device's removal") {
  TestServer server;
  TestClient client(server.path);
  client.call("create", R"({"name":"a"})");
  rpc::Reply reply = client.call("wait", R"({"device":"a","timeout_s":0.02})");
  CHECK(reply.failure->data["errc"].text() == "timed_out");

  TestClient waiter(server.path);
  REQUIRE(waiter.send(call_text(1, "wait", R"({"device":"a"})") + "\n"));
  // The answer to a second call says that the first was read.
  REQUIRE(waiter.send(call_text(2, "version") + "\n"));
  CHECK(waiter.reply().id.whole() == 2);
  client.call("remove", R"({"device":"a"})");
  reply = waiter.reply();
  REQUIRE(reply.failure);
  CHECK(reply.failure->data["errc"].text() == "removed");
  CHECK(reply.failure->message == "device 'a' was removed");
}

TEST_CASE("a hundred waits hold no thread: other verbs go on") {
  TestServer server;
  TestClient client(server.path);
  client.call("create", R"({"name":"a"})");
  std::vector<std::unique_ptr<TestClient>> waiters;
  for (int i = 0; i < 10; ++i) {
    waiters.push_back(std::make_unique<TestClient>(server.path));
    for (int j = 0; j < 10; ++j)
      REQUIRE(waiters.back()->send(call_text(j, "wait", R"({"device":"a"})") + "\n"));
    REQUIRE(waiters.back()->send(call_text(99, "version") + "\n"));
    CHECK(waiters.back()->reply().id.whole() == 99);
  }
  client.call("load", R"({"device":"a","table":"0 8 zero"})");
  for (const auto& waiter : waiters)
    for (int j = 0; j < 10; ++j)
      CHECK_FALSE(waiter->reply().failure);
}

TEST_CASE("events are kept, and followed without a gap") {
  TestServer server;
  TestClient client(server.path);
  client.call("create", R"({"name":"a","table":"0 8 zero"})");
  const rpc::Value kept = client.call("events").result;
  REQUIRE_FALSE(kept["events"].list().empty());
  CHECK(kept["events"].list()[0]["kind"].text() == "created");
  CHECK(kept["lost"].whole() == 0);

  TestClient follower(server.path);
  const rpc::Value followed = follower.call("events", R"({"follow":true,"since":0})").result;
  CHECK(followed["last_sequence"].whole() == kept["last_sequence"].whole());
  CHECK(follower.call("events", R"({"follow":true})").failure->data["errc"].text() == "busy");
  client.call("suspend", R"({"device":"a"})");
  client.call("create", R"({"name":"b"})");
  std::uint64_t sequence = followed["last_sequence"].whole();
  for (const auto& [kind, device] : {std::pair{"suspended", "a"}, std::pair{"created", "b"}}) {
    const rpc::Reply event = follower.reply();
    CHECK(event.method == "event");
    CHECK(event.params["kind"].text() == kind);
    CHECK(event.params["device"].text() == device);
    CHECK(event.params["sequence"].whole() == ++sequence);
  }

  TestClient of_b(server.path);
  CHECK(of_b.call("events", R"({"follow":true,"device":"b"})").result["events"].list().empty());
  client.call("resume", R"({"device":"a"})");
  client.call("remove", R"({"device":"b"})");
  CHECK(of_b.reply().params["kind"].text() == "removed");
}

TEST_CASE("a server that stops answers what waits, ends connections and removes its socket") {
  TestServer server;
  TestClient client(server.path);
  client.call("create", R"({"name":"a"})");
  REQUIRE(client.send(call_text(1, "wait", R"({"device":"a"})") + "\n"));
  REQUIRE(client.send(call_text(2, "version") + "\n"));
  CHECK(client.reply().id.whole() == 2);
  server.server.stop();
  CHECK(client.reply().failure->data["errc"].text() == "shutdown");
  CHECK(client.at_end());
  CHECK_FALSE(std::filesystem::exists(server.path));
  server.server.stop();  // again is nothing
}

TEST_CASE("a message does not wait behind the suspensions that it lets end") {
  control::Options options;
  TestServer server(options);
  TestClient client(server.path);
  const std::size_t waiting = options.limits.change_threads;
  for (std::size_t i = 0; i < waiting; ++i)
    REQUIRE_FALSE(client
                      .call("create", fmt::format(R"({{"name":"d{}","table":)"
                                                  R"("0 8 linear fault:[flush=hang]:mem:1M 0"}})",
                                                  i))
                      .failure);
  for (std::size_t i = 0; i < waiting; ++i)
    REQUIRE(client.send(call_text(static_cast<int>(100 + i), "suspend",
                                  fmt::format(R"({{"device":"d{}","timeout_s":3600}})", i)) +
                        "\n"));
  // Every thread for changes waits in a flush.
  TestClient other(server.path);
  for (std::size_t i = 0; i < waiting; ++i) {
    const std::string leg =
        fmt::format(R"({{"device":"d{}","sector":0,"words":["leg","0","held"]}})", i);
    rpc::Reply held;
    do {
      held = other.call("message", leg);
      REQUIRE_FALSE(held.failure);
    } while (!held.result["reply"].text().starts_with("1 hanging"));
  }
  for (std::size_t i = 0; i < waiting; ++i)
    REQUIRE_FALSE(
        other
            .call("message",
                  fmt::format(R"({{"device":"d{}","sector":0,"words":["leg","0","clear"]}})", i))
            .failure);
  for (std::size_t i = 0; i < waiting; ++i)
    CHECK_FALSE(client.reply().failure);
}

TEST_CASE("stop ends a verb that waits for I/O which a leg holds back") {
  TestServer server;
  TestClient client(server.path);
  const rpc::Reply created =
      client.call("create", R"({"name":"a","table":"0 8 linear fault:[write=hang]:mem:1M 0"})");
  REQUIRE_MESSAGE(!created.failure, created.failure->message);
  auto opened = server.registry.open("a");
  REQUIRE(opened);
  DeviceHandle& device = *opened;
  std::vector<std::byte> data(512);
  std::atomic<bool> over{false};
  Request request;
  request.op = Op::write;
  request.length = Bytes(512);
  request.data = data.data();
  request.owner = &over;
  request.complete = [](Request& r) noexcept { *static_cast<std::atomic<bool>*>(r.owner) = true; };
  request.retry = request.complete;
  REQUIRE(device->submit(request) == Submit::pending);
  REQUIRE(client.send(call_text(5, "suspend", R"({"device":"a","timeout_s":3600})") + "\n"));
  // The device is being suspended when a second change of it is still waiting for the first.
  std::this_thread::sleep_for(100ms);
  server.server.stop();
  CHECK(over);
  CHECK_FALSE(server.server.running());
}

TEST_CASE("a server that never started stops, and one can start again in its place") {
  TempFolder folder;
  Registry registry;
  control::Options options;
  options.socket_path = folder.path("s");
  {
    control::Server idle(registry, options);
    REQUIRE(idle.listen());
  }
  control::Server server(registry, options);
  REQUIRE(server.start());
  CHECK(server.running());
  server.stop();
  CHECK_FALSE(server.running());
  REQUIRE(server.start());
  TestClient client(options.socket_path);
  CHECK_FALSE(client.call("version").failure);
}

TEST_CASE("starts and stops under load leave nothing behind") {
  for (int round = 0; round < 10; ++round) {
    TestServer server;
    TestClient client(server.path);
    for (int i = 0; i < 50; ++i)
      client.send(call_text(i, i % 3 == 0 ? "create" : "info",
                            i % 3 == 0 ? fmt::format(R"({{"name":"d{}"}})", i) : "{}") +
                  "\n");
    if (round % 2 == 0) client.reply();
  }
}
