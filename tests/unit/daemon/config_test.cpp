#include "server/daemon/config.hpp"

#include <chrono>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <string>

#include <doctest/doctest.h>

using namespace blockloom;
using namespace std::chrono_literals;

namespace {

Config good(const std::string& text) {
  auto config = parse_config({{"b.toml", text}});
  REQUIRE_MESSAGE(config, config.error().message);
  return std::move(*config);
}

std::string error_of(const std::vector<ConfigText>& texts) {
  auto config = parse_config(texts);
  REQUIRE_FALSE(config);
  CHECK(config.code() == Errc::invalid);
  return config.error().message;
}

/// The text fails with a message that begins with "b.toml:PLACE: " and holds the part.
void fails(const std::string& text, const std::string& place, const std::string& part) {
  const std::string message = error_of({{"b.toml", text}});
  const std::string start = "b.toml:" + place + (place.ends_with(':') ? "" : ": ");
  CHECK_MESSAGE(message.starts_with(start), message);
  CHECK_MESSAGE(message.find(part) != std::string::npos, message);
}

const std::string device = "[[device]]\nname = \"a\"\ntable = \"0 8 zero\"\n";

}  // namespace

TEST_CASE("an empty configuration is the defaults") {
  const Config c = good("");
  CHECK(c.listen.empty());
  CHECK(c.control.empty());
  CHECK(c.state_dir.empty());
  CHECK(c.advertise);
  CHECK_FALSE(c.insecure);
  CHECK(c.tls.mode == TlsConfig::Mode::off);
  CHECK(c.limits.queue_requests == 4096);
  CHECK(c.devices.empty());
}

TEST_CASE("every key of the configuration is read") {
  const Config c = good(R"(
[server]
listen = ["tcp:127.0.0.1:10809", "tcp:[::1]", {address = "unix:/run/b.sock", mode = "0600"},
          {address = "vsock:10809", insecure = true}]
control = "/run/blockloom/control.sock"
state_dir = "/var/lib/blockloom"
user = "blockloom"
group = "disk"
insecure = false
threads = 24
filters = [{name = "stats", params = {statsfile = "/s"}}, {name = "delay", params = {rdelay = 3}},
           {name = "/opt/f.so"}, {name = "log", params = {logappend = true, logfile = "/l"}}]
default_device = "a"
advertise = false

[tls]
mode = "require"
certificates = "/etc/blockloom/tls"
verify_peer = true

[limits]
queue_requests = 7
queue_timeout = "90s"
suspend_timeout = "250ms"

[[device]]
name = "a"
uuid = "u-1"
description = "the first"
table = """
# a comment
0 8 zero
8 8 error
"""

[[device]]
name = "b"
read_only = true
table = "0 16 linear /b 0"
)");
  REQUIRE(c.listen.size() == 4);
  CHECK(to_string(c.listen[1]) == "tcp:[::1]:10809");
  CHECK(c.listen[2].mode == 0600);
  CHECK(c.listen[3].insecure);
  CHECK(c.control == "/run/blockloom/control.sock");
  CHECK(c.state_dir == "/var/lib/blockloom");
  CHECK(c.user == "blockloom");
  CHECK(c.group == "disk");
  CHECK(c.threads == 24);
  REQUIRE(c.filters.size() == 4);
  CHECK(c.filters[0] == FilterConfig{"stats", {{"statsfile", "/s"}}});
  CHECK(c.filters[1] == FilterConfig{"delay", {{"rdelay", "3"}}});
  CHECK(c.filters[2] == FilterConfig{"/opt/f.so", {}});
  CHECK(c.filters[3] == FilterConfig{"log", {{"logappend", "true"}, {"logfile", "/l"}}});
  CHECK(c.default_device == "a");
  CHECK_FALSE(c.advertise);
  CHECK(c.tls.mode == TlsConfig::Mode::require);
  CHECK(c.tls.certificates == "/etc/blockloom/tls");
  CHECK(c.tls.verify_peer);
  CHECK(c.limits.queue_requests == 7);
  CHECK(c.limits.queue_timeout == 90s);
  CHECK(c.limits.suspend_timeout == 250ms);
  REQUIRE(c.devices.size() == 2);
  CHECK(c.devices[0].name == "a");
  CHECK(c.devices[0].uuid == "u-1");
  CHECK(c.devices[0].description == "the first");
  CHECK(c.devices[0].table.find("8 8 error") != std::string::npos);
  CHECK_FALSE(c.devices[0].read_only);
  CHECK(c.devices[1].read_only);
}

TEST_CASE("TOML that is malformed is told with line and column") {
  fails("[server\n", "1:8", "");
  fails("[server]\nuser = \n", "2:8", "");
  fails("[server]\nuser = \"a\"\nuser = \"b\"\n", "3:8", "user");
  fails("\xff", "1:1", "");
  fails("[[device]]\nname = \"a\"\n[device]\n", "3:1", "device");
}

TEST_CASE("what toml++ 3.3 asserts on is an error like any other") {
  fails("[server]\nuser = \"a\"\n[=x]\nuser = \"b\"\n", "3:1", "malformed");
  fails("[[[device]]]\n", "1:1", "malformed");
  fails("[[=", "1:1", "malformed");
  fails("\n\n[ . ]\n", "3:", "");
  fails("a\u0196 = 1\n", "1:", "");
}

TEST_CASE("an unknown key is told with its place and the keys there are") {
  fails("serve = 1\n", "1:1",
        "unknown key 'serve': expected one of server, tls, limits, iscsi, dump, device");
  fails("[server]\n  lisen = []\n", "2:3", "unknown key 'lisen' in server: expected one of listen");
  fails("[tls]\nkey = \"/a\"\n", "2:1", "unknown key 'key' in tls");
  fails("[limits]\nqueue = 1\n", "2:1", "unknown key 'queue' in limits");
  fails("[[device]]\nnam = \"a\"\n", "2:1", "unknown key 'nam' in device: expected one of name");
  fails("[server]\nlisten = [{addr = \"x\"}]\n", "2:12", "unknown key 'addr' in server.listen");
  fails("[server]\nfilters = [{nam = \"x\"}]\n", "2:13", "unknown key 'nam' in server.filters");
}

TEST_CASE("a value of the wrong type is told with its place and what was expected") {
  fails("server = 3\n", "1:10", "server: expected a section, as in [server], not the number 3");
  fails("device = 3\n", "1:10", "device: expected [[device]] with two brackets");
  fails("[device]\nname = \"a\"\n", "1:1", "[[device]] with two brackets");
  fails("device = [1]\n", "1:11", "[[device]] with two brackets");
  fails("[server]\nlisten = \"tcp:127.0.0.1\"\n", "2:10", "server.listen: expected an array");
  fails("[server]\nlisten = [1]\n", "2:11", "server.listen: expected a listener");
  fails("[server]\ncontrol = 1\n", "2:11", "server.control: expected the absolute path");
  fails("[server]\ncontrol = \"c.sock\"\n", "2:11", "not the text 'c.sock'");
  fails("[server]\nstate_dir = \"\"\n", "2:13", "server.state_dir: expected the absolute path");
  fails("[server]\nuser = true\n", "2:8", "server.user: expected the name of a user, not true");
  fails("[server]\nuser = \"\"\n", "2:8", "server.user: expected the name of a user");
  fails("[server]\nuser = \"a\\u0000b\"\n", "2:8", "control character");
  fails("[server]\ninsecure = \"yes\"\n", "2:12", "expected true or false, not the text 'yes'");
  fails("[server]\nthreads = 0\n", "2:11", "expected a whole number from 1 to 1024");
  fails("[server]\nthreads = 1.5\n", "2:11", "not the number 1.5");
  fails("[server]\nadvertise = 1979-05-27\n", "2:13", "not a date or time");
  fails("[server]\nfilters = {}\n", "2:11", "server.filters: expected an array");
  fails("[server]\nfilters = [\"stats\"]\n", "2:12", "server.filters: expected a filter");
  fails("[server]\nfilters = [{name = \"a b\"}]\n", "2:20", "the name of an nbdkit filter");
  fails("[server]\nfilters = [{params = {}}]\n", "2:12", "a filter needs a name");
  fails("[server]\nfilters = [{name = \"a\", params = 1}]\n", "2:34", "parameters");
  fails("[server]\nfilters = [{name = \"a\", params = {b = []}}]\n", "2:39", "params.b: expected");
  fails("[server]\nfilters = [{name = \"a\", params = {config = 1}}]\n", "2:35", "plugin's own");
  fails("[server]\nfilters = [{name = \"a\", params = {readonly = 1}}]\n", "2:35", "plugin's own");
  fails("[server]\nfilters = [{name = \"a\", params = {\"-x\" = 1}}]\n", "2:35", "'-x'");
  fails("[tls]\nmode = \"maybe\"\n", "2:8", "expected \"off\", \"on\" or \"require\"");
  fails("[limits]\nqueue_requests = 0\n", "2:18", "from 1 to 1000000");
  fails("[limits]\nqueue_timeout = 5\n", "2:17", "expected a duration");
  fails("[limits]\nqueue_timeout = \"5\"\n", "2:17", "expected a duration");
  fails("[limits]\nqueue_timeout = \"0s\"\n", "2:17", "expected a duration");
  fails("[limits]\nqueue_timeout = \"25h\"\n", "2:17", "expected a duration");
  fails("[[device]]\nname = 1\n", "2:8", "device.name: expected a device's name");
  fails("[[device]]\nname = \"a\"\nread_only = 1\n", "3:13", "expected true or false");
}

TEST_CASE("a listener's mistakes are told with their place") {
  fails("[server]\nlisten = [\"tcp:127.0.0.1\",\n  \"tcp:x\"]\n", "3:3", "listener 'tcp:x'");
  fails("[server]\nlisten = [{mode = \"0600\"}]\n", "2:11", "expected tcp:ADDRESS");
  fails("[server]\nlisten = [{address = \"unix:/a\", mode = \"0999\"}]\n", "2:40", "octal");
  fails("[server]\nlisten = [{address = \"tcp:127.0.0.1\", mode = \"0600\"}]\n", "2:11",
        "a mode is for a Unix socket");
  fails("[server]\nlisten = [\"tcp:127.0.0.1\", \"tcp:127.0.0.1:10809\"]\n", "2:28",
        "the listener 'tcp:127.0.0.1:10809' is already given at b.toml:2:11");
}

TEST_CASE("a device's mistakes are told with their place") {
  fails("[[device]]\ntable = \"0 8 zero\"\n", "1:1",
        "device.name: device name '': expected 1 to 127 letters");
  for (const char* bad : {"a/b", "a b", "-a", ".a", "\u00e4"})
    fails(std::string("[[device]]\ntable = \"0 8 zero\"\nname = \"") + bad + "\"\n", "3:8",
          "expected 1 to 127 letters");
  fails("[[device]]\nname = \"a\"\n", "1:1", "device 'a' needs a table");
  fails("[[device]]\nname = \"a\"\ntable = \"# none\"\n", "3:9", "device 'a' needs a table");
  fails("[[device]]\nname = \"a\"\ntable = \"\"\"\n0 8 zero\n8 x zero\n\"\"\"\n", "3:9",
        "device 'a': table: line 2: length 'x'");
  fails(
      "[[device]]\nname = \"a\"\nuuid = \"" + std::string(129, 'u') + "\"\ntable = \"0 8 zero\"\n",
      "3:8", "expected 1 to 128 printable");
  fails("[[device]]\nname = \"a\"\ntable = \"0 8 zero\"\n  uuid = \"u u\"\n", "4:10",
        "device 'a': device uuid 'u u': expected");
  fails(device + device, "5:8", "device 'a' is already given at b.toml:2:8");
  fails(device + "uuid = \"u\"\n[[device]]\nname = \"b\"\nuuid = \"u\"\ntable = \"0 8 zero\"\n",
        "7:8", "uuid 'u' is already given at b.toml:4:8");
}

TEST_CASE("a device keeps the place of its table") {
  const Config c = good("\n[[device]]\nname = \"b\"\n  table = \"0 8 zero\"\n" + device);
  REQUIRE(c.devices.size() == 2);
  CHECK(c.devices[0].origin == "b.toml:4:11");
  CHECK(c.devices[1].origin == "b.toml:7:9");
  CHECK(parse_devices({"my.toml", device})->front().origin == "my.toml:3:9");
}

TEST_CASE("a file that lost all of its keys is refused when devices would go for it") {
  const auto read = [](const std::string& main, const std::string& fragment) {
    auto config = parse_config({{"b.toml", main}, {"conf.d/x.toml", fragment}});
    REQUIRE_MESSAGE(config, config.error().message);
    return std::move(*config);
  };
  const Config full = read(device, "");
  for (const char* empty : {"", "\n\n", "# all gone\n"}) {
    const auto refused = check_not_truncated(full, read(empty, ""));
    REQUIRE_FALSE(refused);
    CHECK(refused.error().message.find("'b.toml' is empty, which would remove 1 of 1") == 0);
  }
  CHECK(check_not_truncated(full, read("[server]\n", "")));    // meant
  CHECK(check_not_truncated(full, read("", device)));          // moved
  CHECK(check_not_truncated(read("", device), read("", "")));  // it was always empty
  CHECK(check_not_truncated(read("[server]\n", ""), read("", "")));
}

TEST_CASE("all mistakes are told, in order, but not more than twenty") {
  const std::string two = error_of({{"b.toml", "[server]\nuser = 1\n[tls]\nmode = 2\n"}});
  CHECK(two.find("b.toml:2:8") < two.find("\nb.toml:4:8"));
  std::string many;
  for (int i = 0; i < 25; ++i)
    many += "k" + std::to_string(i) + " = 1\n";
  const std::string message = error_of({{"b.toml", many}});
  CHECK(message.ends_with("\nand 5 more errors"));
}

TEST_CASE("later files add, and what is given twice names both places") {
  auto config = parse_config({{"b.toml", "[server]\nlisten = [\"unix:/a\"]\n" + device},
                              {"conf.d/x.toml",
                               "[server]\nlisten = [\"unix:/b\"]\nuser = \"u\"\n"
                               "[[device]]\nname = \"b\"\ntable = \"0 8 zero\"\n"}});
  REQUIRE_MESSAGE(config, config.error().message);
  CHECK(config->listen.size() == 2);
  CHECK(config->devices.size() == 2);
  CHECK(config->user == "u");
  CHECK(config->files == std::vector<std::string>{"b.toml", "conf.d/x.toml"});

  const std::string twice = error_of(
      {{"b.toml", "[server]\nuser = \"a\"\n"}, {"conf.d/x.toml", "\n[server]\nuser = \"b\"\n"}});
  CHECK(twice == "conf.d/x.toml:3:8: server.user is already given at b.toml:2:8");
  const std::string devices = error_of({{"b.toml", device}, {"conf.d/x.toml", device}});
  CHECK(devices == "conf.d/x.toml:2:8: device 'a' is already given at b.toml:2:8");
}

TEST_CASE("a public listener is refused unless TLS is required or insecure says so") {
  const std::string listen = "[server]\nlisten = [\"tcp:0.0.0.0\"]\n";
  fails(listen, "2:11", "listener 'tcp:0.0.0.0:10809' is public");
  fails(listen, "2:11", "insecure = true");
  fails(listen + "[tls]\nmode = \"on\"\npsk = \"/k\"\n", "2:11", "is public");
  fails("[server]\nlisten = [\"vsock:10809\"]\n", "2:11", "every guest of this host");
  CHECK(good(listen + "insecure = true\n").insecure);
  CHECK(good(listen + "[tls]\nmode = \"require\"\npsk = \"/k\"\n").tls.psk == "/k");
  CHECK(good("[server]\nlisten = [{address = \"tcp:*\", insecure = true}]\n").listen[0].insecure);
  fails("[server]\nlisten = [{address = \"tcp:*\", insecure = true}, \"tcp:10.0.0.1\"]\n", "2:49",
        "tcp:10.0.0.1:10809");
  good("[server]\nlisten = [\"tcp:127.0.0.1\", \"tcp:[::1]\", \"unix:/a\", \"vsock:local:1\"]\n");
}

TEST_CASE("a public listener that anybody may use is allowed with a warning") {
  const std::string open = "[server]\nlisten = [\"tcp:127.0.0.1\", \"tcp:*\"]\n";
  const auto insecure = warnings(good(open + "insecure = true\n"));
  REQUIRE(insecure.size() == 1);
  CHECK(insecure[0].starts_with("listener 'tcp:*:10809' is public without TLS"));
  const std::string tls = open + "[tls]\nmode = \"require\"\n";
  const auto strangers = warnings(good(tls + "certificates = \"/c\"\n"));
  REQUIRE(strangers.size() == 1);
  CHECK(strangers[0].find("tls.verify_peer") != std::string::npos);
  CHECK(warnings(good(tls + "certificates = \"/c\"\nverify_peer = true\n")).empty());
  CHECK(warnings(good(tls + "psk = \"/k\"\n")).empty());
  CHECK(warnings(good("[server]\nlisten = [\"unix:/a\"]\n")).empty());
}

TEST_CASE("TLS needs certificates or keys, and not both") {
  fails("[tls]\nmode = \"require\"\n", "2:8", "tls.certificates");
  fails("[tls]\npsk = \"/a\"\ncertificates = \"/b\"\n", "2:7", "given at b.toml:3:16");
  fails("[tls]\npsk = \"/a\"\nverify_peer = true\n", "3:15", "with tls.psk");
}

TEST_CASE("a text for apply holds devices only") {
  auto devices = parse_devices({"FILE", device});
  REQUIRE_MESSAGE(devices, devices.error().message);
  REQUIRE(devices->size() == 1);
  CHECK(devices->front().name == "a");
  auto refused = parse_devices({"FILE", "[server]\nuser = \"a\"\n" + device});
  REQUIRE_FALSE(refused);
  CHECK(refused.error().message == "FILE:1:2: unknown key 'server': expected device");
  auto none = parse_devices({"FILE", ""});
  REQUIRE(none);
  CHECK(none->empty());
}

TEST_CASE("durations have a whole number and a unit") {
  CHECK(parse_duration("5s").value() == 5s);
  CHECK(parse_duration("250ms").value() == 250ms);
  CHECK(parse_duration("2m").value() == 2min);
  CHECK(parse_duration("24h").value() == 24h);
  for (const char* bad : {"", "s", "5", "5 s", "-5s", "+5s", "1.5s", "5us", "5S", "25h", "5ss",
                          "99999999999999999999s", "18446744073709551615h"})
    CHECK_MESSAGE(!parse_duration(bad), bad);
}

TEST_CASE("what a running server cannot change is named") {
  const Config a = good("[server]\nlisten = [\"unix:/a\"]\n");
  CHECK(restart_settings(a, a).empty());
  const Config b = good(
      "[server]\nlisten = [\"unix:/b\"]\nthreads = 3\nadvertise = false\n"
      "default_device = \"x\"\n[limits]\nqueue_requests = 1\n" +
      device);
  CHECK(restart_settings(a, b) ==
        std::vector<std::string>{"server.listen", "server.threads", "limits"});
  CHECK_MESSAGE(restart_settings(good(device), good("[iscsi]\n" + device)).empty(),
                "a reload switches iSCSI on");
}

TEST_CASE("the file and conf.d beside it are read in the order of their names") {
  namespace fs = std::filesystem;
  char folder[] = "/tmp/blockloom-config-XXXXXX";
  REQUIRE(mkdtemp(folder) != nullptr);
  const fs::path top(folder);
  const auto write = [&](const fs::path& name, const std::string& text) {
    std::ofstream(top / name) << text;
  };
  const auto named = [](const std::string& name) {
    return "[[device]]\nname = \"" + name + "\"\ntable = \"0 8 zero\"\n";
  };
  write("blockloom.toml", named("main"));
  CHECK(load_config(top / "blockloom.toml")->devices.size() == 1);
  fs::create_directory(top / "conf.d");
  write("conf.d/20-b.toml", named("b"));
  write("conf.d/10-a.toml", named("a"));
  write("conf.d/.hidden.toml", "nonsense");
  write("conf.d/30-c.toml~", "nonsense");
  write("conf.d/README", "nonsense");
  auto config = load_config(top / "blockloom.toml");
  REQUIRE_MESSAGE(config, config.error().message);
  REQUIRE(config->devices.size() == 3);
  CHECK(config->devices[0].name == "main");
  CHECK(config->devices[1].name == "a");
  CHECK(config->devices[2].name == "b");

  write("conf.d/20-b.toml", "\n  nonsense");
  config = load_config(top / "blockloom.toml");
  REQUIRE_FALSE(config);
  CHECK(config.error().message.starts_with((top / "conf.d/20-b.toml:2:").string()));
  auto missing = load_config(top / "none.toml");
  REQUIRE_FALSE(missing);
  CHECK(missing.code() == Errc::not_found);
  CHECK(missing.error().message.find("none.toml") != std::string::npos);
  auto not_a_file = load_config(top / "conf.d");
  REQUIRE_FALSE(not_a_file);
  CHECK(not_a_file.error().message.find("expected a regular file") != std::string::npos);
  fs::remove_all(top);
}
