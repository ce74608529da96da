// Every verb through the real socket, on a real registry with memory legs.
#include <set>
#include <string>

#include <doctest/doctest.h>

#include "server/control/verb.hpp"
#include "tests/unit/control/support.hpp"

using namespace blockloom;
using rpc::to_text;

namespace {

std::string result_of(const rpc::Reply& reply) {
  REQUIRE_MESSAGE(!reply.failure, reply.failure->message);
  return to_text(reply.result);
}

std::set<std::string> member_names(const rpc::Value& value) {
  std::set<std::string> names;
  if (const auto* members = value.members())
    for (const auto& member : *members)
      names.insert(member.name);
  return names;
}

}  // namespace

TEST_CASE("version and targets say what the server is") {
  TestServer server;
  TestClient client(server.path);
  CHECK(result_of(client.call("version")) == "{\"version\":\"" BLOCKLOOM_VERSION
                                             "\",\"api_version\":1}");
  const rpc::Reply targets = client.call("targets");
  bool linear = false;
  for (const rpc::Value& target : targets.result["targets"].list())
    linear = linear || (target["name"].text() == "linear" && !target["version"].text().empty());
  CHECK(linear);
}

TEST_CASE("a device is created, loaded, swapped, renamed and removed") {
  TestServer server;
  TestClient client(server.path);
  CHECK(result_of(client.call("create", R"({"name":"a","table":"0 8 linear mem:1M 0"})")) ==
        R"({"name":"a"})");
  CHECK(result_of(client.call("table", R"({"device":"a"})")) ==
        R"({"devices":[{"name":"a","lines":["0 8 linear mem:1M 0"]}]})");
  CHECK(result_of(client.call("load", R"({"device":"a","table":"0 8 zero\n8 8 error"})")) ==
        R"({"name":"a"})");
  CHECK(result_of(client.call("table", R"({"device":"a","inactive":true})")) ==
        R"({"devices":[{"name":"a","lines":["0 8 zero ","8 8 error "]}]})");

  const rpc::Reply resumed = client.call("resume", R"({"device":"a"})");
  REQUIRE_FALSE(resumed.failure);
  CHECK(resumed.result["swapped"].flag());
  CHECK(resumed.result["pause_s"].is_number());

  CHECK(result_of(client.call("load", R"({"device":"a","table":"0 8 zero"})")) ==
        R"({"name":"a"})");
  CHECK(result_of(client.call("clear", R"({"device":"a"})")) == R"({"name":"a"})");
  CHECK(result_of(client.call("table", R"({"device":"a","inactive":true})")) ==
        R"({"devices":[{"name":"a","lines":[]}]})");

  CHECK(result_of(client.call("rename", R"({"device":"a","new_name":"b"})")) == R"({"name":"b"})");
  CHECK(result_of(client.call("set_uuid", R"({"device":"b","new_uuid":"U-1"})")) ==
        R"({"name":"b"})");
  CHECK(errc_of(client.call("set_uuid", R"({"device":"b","new_uuid":"U-2"})")) == "exists");
  CHECK(result_of(client.call("list")) == R"({"devices":[{"name":"b","uuid":"U-1","minor":0}]})");
  CHECK(result_of(client.call("remove", R"({"uuid":"U-1"})")) == R"({"name":"b"})");
  CHECK(result_of(client.call("list")) == R"({"devices":[]})");
}

TEST_CASE("suspend shows in info, with its lease, and resume ends it") {
  TestServer server;
  TestClient client(server.path);
  client.call("create", R"({"name":"a","table":"0 8 zero","description":"d","uuid":"u"})");
  result_of(client.call("suspend", R"({"device":"a","lease_s":100,"flush":false})"));
  const rpc::Value info = client.call("info", R"({"device":"a"})").result["devices"].list().at(0);
  CHECK(info["suspended"].flag());
  CHECK(info["lease_left_s"].real() > 50);
  CHECK(info["description"].text() == "d");
  CHECK(info["sectors"].whole() == 8);
  CHECK(member_names(info) == std::set<std::string>{"name", "uuid", "description", "minor",
                                                    "suspended", "read_only", "deferred_remove",
                                                    "live_table", "inactive_table", "targets",
                                                    "sectors", "open_count", "event_number",
                                                    "queued", "lease_left_s", "failure"});
  const rpc::Reply resumed = client.call("resume", R"({"device":"a"})");
  CHECK_FALSE(resumed.result["swapped"].flag());
  CHECK_FALSE(
      client.call("info", R"({"device":"a"})").result["devices"].list().at(0)["suspended"].flag());
}

TEST_CASE("deps and tree name legs and the devices above") {
  TestServer server;
  TestClient client(server.path);
  client.call("create", R"({"name":"low","table":"0 8 linear mem:1M 0"})");
  client.call("create", R"({"name":"top","table":"0 8 linear dev:low 0"})");
  CHECK(result_of(client.call("deps", R"({"device":"top"})")) ==
        R"({"devices":[{"name":"top","legs":[{"uri":"dev:low","device":"low","bytes":4096}]}]})");
  const rpc::Value tree = client.call("tree").result["devices"];
  REQUIRE(tree.list().size() == 2);
  CHECK(to_text(tree.list()[0]["holders"]) == R"(["top"])");
  CHECK(to_text(tree.list()[1]["holders"]) == "[]");
}

TEST_CASE("stats have totals for each device and leg, and a clock") {
  TestServer server;
  TestClient client(server.path);
  client.call("create", R"({"name":"a","table":"0 8 linear mem:1M 0"})");
  const rpc::Value stats = client.call("stats").result;
  CHECK(stats["time_s"].real() > 0);
  const rpc::Value device = stats["devices"].list().at(0);
  const std::set<std::string> io{"reads",  "writes",  "others",     "read_bytes", "write_bytes",
                                 "errors", "samples", "sampled_ns", "in_flight"};
  CHECK(member_names(device["io"]) == io);
  CHECK(member_names(device["legs"].list().at(0)["io"]) == io);
}

TEST_CASE("apply swaps several devices, check only says what it would do") {
  TestServer server;
  TestClient client(server.path);
  const char* devices =
      R"({"devices":[{"name":"a","table":"0 8 zero"},{"name":"b","table":"0 8 zero"}]})";
  CHECK(result_of(client.call("check", devices)) ==
        R"({"created":["a","b"],"swapped":[],"unchanged":[],"pause_s":0.0})");
  CHECK(result_of(client.call("list")) == R"({"devices":[]})");
  const rpc::Reply applied = client.call("apply", devices);
  CHECK(to_text(applied.result["created"]) == R"(["a","b"])");
  const rpc::Reply again = client.call(
      "apply", R"({"devices":[{"name":"a","table":"0 8 zero"},{"name":"b","table":"0 16 zero"}]})");
  CHECK(to_text(again.result["unchanged"]) == R"(["a"])");
  CHECK(to_text(again.result["swapped"]) == R"(["b"])");

  CHECK(errc_of(client.call("apply", R"({"devices":[]})")) == "invalid");
  CHECK(errc_of(client.call("apply", R"({})")) == "invalid");
  CHECK(errc_of(client.call("apply", R"({"devices":[],"toml":""})")) == "invalid");
  const rpc::Reply bad = client.call("apply", R"({"devices":[{"name":"a","tabel":"x"}]})");
  CHECK(errc_of(bad) == "invalid");
  CHECK(bad.failure->message ==
        "devices[0]: unknown parameter 'tabel'; it takes: name, uuid, description, table, "
        "read_only");
}

TEST_CASE("a configuration text goes through the callback, with its name") {
  control::Options options;
  options.parse_config = [](std::string_view text,
                            const std::string& name) -> Result<std::vector<DeviceSpec>> {
    if (text != "good") return Error{Errc::invalid, name + ":1:1: bad"};
    return std::vector<DeviceSpec>{{"a", "", "", "0 8 zero", false}};
  };
  TestServer server(options);
  TestClient client(server.path);
  CHECK(to_text(client.call("apply", R"({"toml":"good"})").result["created"]) == R"(["a"])");
  const rpc::Reply bad = client.call("check", R"({"toml":"x","file":"vol.toml"})");
  CHECK(errc_of(bad) == "invalid");
  CHECK(bad.failure->message == "vol.toml:1:1: bad");
}

TEST_CASE("without its callbacks a server says that it cannot reload or read TOML") {
  TestServer server;
  TestClient client(server.path);
  CHECK(errc_of(client.call("reload")) == "not_supported");
  CHECK(errc_of(client.call("apply", R"({"toml":"x"})")) == "not_supported");
}

TEST_CASE("reload hands over the callback's report or error") {
  control::Options options;
  bool good = true;
  options.reload = [&]() -> Result<ApplyReport> {
    if (!good) return Error{Errc::invalid, "blockloom.toml:3:1: no"};
    ApplyReport report;
    report.swapped = {"a"};
    return report;
  };
  TestServer server(options);
  TestClient client(server.path);
  CHECK(to_text(client.call("reload").result["swapped"]) == R"(["a"])");
  good = false;
  CHECK(errc_of(client.call("reload")) == "invalid");
}

TEST_CASE("message reaches the target, and its refusal the client") {
  TestServer server;
  TestClient client(server.path);
  client.call("create", R"({"name":"a","table":"0 8 zero"})");
  CHECK(client.call("message", R"({"device":"a","sector":0,"words":["hello"]})").failure);
  CHECK(errc_of(client.call("message", R"({"device":"a","words":[]})")) == "invalid");
}

TEST_CASE("attach_help prints lines for every endpoint") {
  control::Options options;
  options.default_device = [] { return std::string("a"); };
  options.endpoints = {{control::Endpoint::Kind::tcp, "127.0.0.1", 10809, false},
                       {control::Endpoint::Kind::unix_socket, "/run/nbd.sock", 0, false}};
  TestServer server(options);
  TestClient client(server.path);
  client.call("create", R"({"name":"a","table":"0 8 zero"})");
  const rpc::Value help = client.call("attach_help", R"({"device":"a"})").result;
  CHECK(help["default_export"].flag());
  REQUIRE(help["endpoints"].list().size() == 2);
  CHECK(help["endpoints"].list()[1]["uri"].text() == "nbd+unix:///a?socket=/run/nbd.sock");
}

TEST_CASE("what is wrong with a call is said with the right code") {
  TestServer server;
  TestClient client(server.path);
  client.call("create", R"({"name":"a","table":"0 8 zero"})");
  const auto open = server.registry.open("a");
  REQUIRE(open);

  rpc::Reply reply = client.call("frobnicate");
  CHECK(reply.failure->code == rpc::code::method_not_found);
  reply = client.call("info", R"({"name":"a"})");
  CHECK(reply.failure->code == rpc::code::invalid_params);
  CHECK(errc_of(reply) == "invalid");
  reply = client.call("info", R"({"device":"nobody"})");
  CHECK(errc_of(reply) == "not_found");
  CHECK(reply.failure->code == -32003);
  CHECK(errc_of(client.call("remove", R"({"device":"a"})")) == "busy");
  CHECK(errc_of(client.call("create", R"({"name":"a"})")) == "exists");
  CHECK(errc_of(client.call("create", R"({"name":"x","table":" \n"})")) == "invalid");
  CHECK(errc_of(client.call("create", R"({"name":"x","table":"0 8 frob"})")) != "");
  CHECK(errc_of(client.call("suspend", R"({})")) == "invalid");
  CHECK(errc_of(client.call("suspend", R"({"device":"a","uuid":"b"})")) == "invalid");
}
