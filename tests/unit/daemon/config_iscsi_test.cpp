// [iscsi] of the configuration, and files of secrets.
#include "server/daemon/config_iscsi.hpp"

#include <string>

#include <doctest/doctest.h>

using namespace blockloom;
using namespace blockloom::iscsi;

namespace {

IscsiOptions parsed(const std::string& text) {
  auto config = parse_config({{"a.toml", text}});
  REQUIRE_MESSAGE(bool(config), (config ? std::string() : config.error().message));
  return config.value().iscsi;
}

std::string refused(const std::string& text) {
  const auto config = parse_config({{"a.toml", text}});
  REQUIRE_FALSE(bool(config));
  return config.error().message;
}

std::string chap_error(const std::string& text) {
  ChapSettings chap;
  const auto read = parse_chap(text, "secrets", chap);
  return read ? std::string() : read.error().message;
}

}  // namespace

TEST_CASE("without [iscsi] there is no target; with it there is, unless it is switched off") {
  CHECK_FALSE(parsed("").enabled);
  CHECK(parsed("[iscsi]\n").enabled);
  CHECK(parsed("[[iscsi.target]]\nname = \"iqn.x\"\n").enabled);
  CHECK_FALSE(parsed("[iscsi]\nenabled = false\n").enabled);
  CHECK_FALSE(parse_config({{"a", "[iscsi]\nenabled = false\n"}, {"b", "[iscsi]\nthreads = 1\n"}})
                  .value()
                  .iscsi.enabled);
}

TEST_CASE("the defaults are one target of all devices on loopback") {
  const IscsiOptions options = with_defaults(parsed("[iscsi]\n"));
  REQUIRE(options.portals.size() == 1);
  CHECK(to_string(options.portals[0]) == "127.0.0.1:3260");
  REQUIRE(options.targets.size() == 1);
  CHECK(options.targets[0].name == default_target);
  CHECK(options.targets[0].all_devices);
  CHECK(options.limits.total_bytes == 512ULL << 20);
}

TEST_CASE("every key arrives") {
  const IscsiOptions options = parsed(R"(
[iscsi]
portals = ["127.0.0.1:1", {address = "[::1]:2", advertise = "host:3"}]
threads = 3
discovery_chap = "/d"
connections = 10
sessions = 11
unauthenticated = 12
queue_depth = 13
session_memory_mib = 14
memory_mib = 100
login_timeout = "1s"
ping_interval = "2s"
ping_timeout = "3s"
send_timeout = "4s"
[[iscsi.target]]
name = "iqn.2026-01.org.example:a"
alias = "A"
luns = ["vol0", {device = "vol1", lun = 9, read_only = true, thin = false, block_size = 4096, serial = "S"}]
initiators = ["iqn.i", "iqn.j*"]
addresses = ["192.0.2.0/24"]
chap = "/c"
chap_algorithms = ["sha256", "md5"]
header_digest = "require"
data_digest = "none"
max_segment = 8192
max_burst = 16384
first_burst = 4096
max_outstanding_r2t = 2
initial_r2t = true
immediate_data = false
redirect = "host:4"
)");
  REQUIRE(options.portals.size() == 2);
  CHECK(options.portals[1].advertise == "host:3");
  CHECK(options.threads == 3);
  CHECK(options.discovery_chap_file == "/d");
  CHECK(options.limits.connections == 10);
  CHECK(options.limits.sessions == 11);
  CHECK(options.limits.unauthenticated == 12);
  CHECK(options.limits.queue_depth == 13);
  CHECK(options.limits.session_bytes == 14ULL << 20);
  CHECK(options.limits.total_bytes == 100ULL << 20);
  CHECK(options.limits.login_timeout == std::chrono::seconds(1));
  CHECK(options.limits.ping_interval == std::chrono::seconds(2));
  CHECK(options.limits.ping_timeout == std::chrono::seconds(3));
  CHECK(options.limits.send_timeout == std::chrono::seconds(4));
  REQUIRE(options.targets.size() == 1);
  const TargetOptions& target = options.targets[0];
  CHECK(target.alias == "A");
  CHECK_FALSE(target.all_devices);
  REQUIRE(target.luns.size() == 2);
  CHECK(target.luns[0].lun == 0);
  const UnitOptions& unit = target.luns[1].unit;
  CHECK(target.luns[1].lun == 9);
  CHECK(unit.device == "vol1");
  CHECK(unit.read_only);
  CHECK_FALSE(unit.thin);
  CHECK(unit.block_size == 4096);
  CHECK(unit.serial == "S");
  CHECK(target.access.initiators.size() == 2);
  CHECK(target.access.addresses.size() == 1);
  CHECK(target.chap_file == "/c");
  CHECK(target.chap.algorithms == std::vector{ChapAlgorithm::sha256, ChapAlgorithm::md5});
  CHECK(target.offers.header_digest == DigestPolicy::require);
  CHECK(target.offers.data_digest == DigestPolicy::none);
  CHECK(target.offers.max_recv_data_segment_length == 8192);
  CHECK(target.offers.max_burst_length == 16384);
  CHECK(target.offers.first_burst_length == 4096);
  CHECK(target.offers.max_outstanding_r2t == 2);
  CHECK(target.offers.initial_r2t);
  CHECK_FALSE(target.offers.immediate_data);
  CHECK(target.redirect == "host:4");
}

TEST_CASE("a public portal needs CHAP or addresses for every target, or the word insecure") {
  const std::string open = "[iscsi]\nportals = [\"*\"]\n";
  const std::string a = "[[iscsi.target]]\nname = \"iqn.a\"\nchap = \"/c\"\n";
  const std::string b = "[[iscsi.target]]\nname = \"iqn.b\"\n";
  CHECK(refused(open).find("is public") != std::string::npos);
  CHECK(refused(open + a + b).find("'iqn.b' lets anybody in") != std::string::npos);
  CHECK(parsed(open + a).enabled);
  CHECK(parsed(open + a + b + "addresses = [\"192.0.2.0/24\"]\n").enabled);
  CHECK(parsed(open + "insecure = true\n").enabled);
  CHECK(parsed("[server]\ninsecure = true\n" + open).enabled);
  CHECK(parsed("[iscsi]\nportals = [{address = \"*\", insecure = true}]\n").enabled);
  CHECK(parsed("[iscsi]\nportals = [\"127.0.0.1\", \"[::1]\"]\n").enabled);
}

TEST_CASE("secrets: one line each, comments, both directions") {
  ChapSettings chap;
  REQUIRE(
      bool(parse_chap("# both\n\n initiator a  secret-of-12-b\r\ninitiator b\tanother-secret\n"
                      "target t the-targets-own",
                      "secrets", chap)));
  REQUIRE(chap.users.size() == 2);
  CHECK(chap.users[1].name == "b");
  CHECK(chap.users[1].secret == "another-secret");
  CHECK(chap.mutual.name == "t");
  CHECK(chap.required());
}

TEST_CASE("secrets that cannot be used are told with their line, and never shown") {
  struct Row {
    const char *text, *complaint;
  };
  constexpr Row rows[] = {
      {"", "nobody could log in"},
      {"target t the-targets-own\n", "nobody could log in"},
      {"initiator a\n", "secrets:1: expected"},
      {"\nhost a secret-of-12-b\n", "secrets:2: expected"},
      {"initiator a secret-of-12-b more\n", "secrets:1: expected"},
      {"initiator a short-one\n", "secrets:1: the secret has 9 bytes"},
      {"initiator a secret-of-12-b\ninitiator a another-secret\n", "secrets:2: 'a' is given twice"},
      {"target t the-targets-own\ntarget u the-targets-own\n", "secrets:2: a second 'target'"},
      {"initiator a secret-of-12-b\ntarget t secret-of-12-b\n", "reflected"},
  };
  for (const Row& row : rows) {
    const std::string said = chap_error(row.text);
    CAPTURE(said);
    CHECK(said.find(row.complaint) != std::string::npos);
    CHECK(said.find("secret-of-12-b") == std::string::npos);
  }
}
