#include <cstdlib>
#include <string>
#include <vector>

#include <doctest/doctest.h>

#include "clients/blockloom/command.hpp"

using namespace blockloom::cli;

namespace {

Parsed parsed(std::vector<const char*> words) {
  words.insert(words.begin(), "blockloom");
  return parse(static_cast<int>(words.size()), words.data());
}

Command command(std::vector<const char*> words) {
  Parsed result = parsed(std::move(words));
  REQUIRE_MESSAGE(result.command.has_value(), result.text);
  return *result.command;
}

/// The message for a command line that is wrong; it never reaches a server.
std::string wrong(std::vector<const char*> words) {
  const Parsed result = parsed(std::move(words));
  REQUIRE_FALSE(result.command);
  CHECK(result.exit == Exit::usage);
  return result.text;
}

using Names = std::vector<std::string>;

}  // namespace

TEST_CASE("create: the table from a file, an option, standard input, or none") {
  Command c = command({"create", "vol0", "table.txt", "-u", "U-1", "-r"});
  CHECK(c.verb == Verb::create);
  CHECK(c.new_name == "vol0");
  CHECK(c.file == "table.txt");
  CHECK(c.uuid == "U-1");
  CHECK(c.read_only);
  c = command({"create", "vol0", "--table", "0 8 zero", "--readonly"});
  CHECK(c.table == "0 8 zero");
  c = command({"create", "vol0"});
  CHECK_FALSE(c.table);
  CHECK(c.file.empty());
  CHECK(command({"create", "vol0", "--notable"}).no_table);
  CHECK(wrong({"create", "vol0", "file", "--table", "x"}).find("--table") != std::string::npos);
  CHECK(wrong({"create", "vol0", "file", "--notable"}).find("--notable") != std::string::npos);
  CHECK(wrong({"create"}).find("name") != std::string::npos);
}

TEST_CASE("reload is load with a device, and the configuration's without") {
  CHECK(command({"load", "vol0", "t"}).verb == Verb::load);
  const Command c = command({"reload", "vol0", "t"});
  CHECK(c.verb == Verb::load);
  CHECK(c.devices == Names{"vol0"});
  CHECK(c.file == "t");
  CHECK(command({"reload"}).verb == Verb::reload);
  CHECK(command({"reload", "-u", "U"}).verb == Verb::load);
  CHECK(wrong({"reload", "--table", "0 8 zero"}).find("name it") != std::string::npos);
  CHECK(wrong({"load"}).find("device is missing") != std::string::npos);
}

TEST_CASE("a uuid stands for the device, and then the words move up") {
  Command c = command({"load", "-u", "U-1", "t"});
  CHECK(c.devices.empty());
  CHECK(c.uuid == "U-1");
  CHECK(c.file == "t");
  c = command({"message", "--uuid", "U-1", "0", "hello"});
  CHECK(c.devices.empty());
  CHECK(c.words == Names{"hello"});
  c = command({"wait", "--uuid", "U-1", "5"});
  CHECK(c.event_number == 5);
  c = command({"rename", "--uuid", "U-1", "new"});
  CHECK(c.new_name == "new");
  CHECK(wrong({"info", "a", "-u", "U"}).find("not by both") != std::string::npos);
}

TEST_CASE("suspend: flush, lease, time-out, several devices") {
  const Command c =
      command({"suspend", "a", "b", "--noflush", "--for", "5s", "--timeout", "500ms"});
  CHECK(c.devices == Names{"a", "b"});
  CHECK(c.no_flush);
  CHECK(c.lease_s == 5);
  CHECK(c.timeout_s == 0.5);
  CHECK(wrong({"suspend"}).find("device is missing") != std::string::npos);
  CHECK(wrong({"suspend", "a", "--for", "soon"}).find("'soon'") != std::string::npos);
}

TEST_CASE("rename takes a new name, or --setuuid") {
  Command c = command({"rename", "a", "b"});
  CHECK(c.devices == Names{"a"});
  CHECK(c.new_name == "b");
  c = command({"rename", "a", "--setuuid", "U"});
  CHECK(c.devices == Names{"a"});
  CHECK(c.new_uuid == "U");
  wrong({"rename"});
  wrong({"rename", "a"});
  wrong({"rename", "a", "b", "c"});
  wrong({"rename", "a", "b", "--setuuid", "U"});
}

TEST_CASE("message has a device, a sector and words") {
  const Command c = command({"message", "a", "8", "leg", "/x", "--", "-5"});
  CHECK(c.devices == Names{"a"});
  CHECK(c.sector == 8);
  CHECK(c.words == Names{"leg", "/x", "-5"});
  CHECK(wrong({"message", "a", "x", "y"}).find("sector 'x'") != std::string::npos);
  wrong({"message", "a"});
  wrong({"message", "a", "0"});
}

TEST_CASE("a device whose name begins with a dash comes after --") {
  CHECK(command({"remove", "--force", "--", "-a", "b"}).devices == Names{"-a", "b"});
  CHECK(command({"message", "--", "-a", "0", "-x"}).devices == Names{"-a"});
}

TEST_CASE("wait has an optional event number") {
  CHECK_FALSE(command({"wait", "a"}).event_number);
  CHECK(command({"wait", "a", "17", "--timeout", "2m"}).event_number == 17);
  CHECK(wrong({"wait", "a", "-1"}).size() > 0);
  wrong({"wait", "a", "1", "2"});
  wrong({"wait"});
}

TEST_CASE("leg has an action, a device, and what the action needs") {
  Command c = command({"leg", "add", "m", "nbd://h/x", "--offset", "8", "--leg-timeout-ms", "500"});
  CHECK(c.verb == Verb::leg);
  CHECK(c.devices == Names{"m"});
  CHECK(c.words == Names{"add", "nbd://h/x"});
  CHECK(c.leg_offset == 8);
  CHECK(c.leg_timeout_ms == 500);
  c = command({"leg", "replace", "m", "1", "/new"});
  CHECK(c.words == Names{"replace", "1", "/new"});
  c = command({"leg", "fail", "-u", "U", "0"});
  CHECK(c.devices.empty());
  CHECK(c.words == Names{"fail", "0"});
  CHECK(wrong({"leg", "frob", "m", "0"}).find("leg 'frob': expected add, remove") !=
        std::string::npos);
  CHECK(wrong({"leg", "replace", "m", "0"}).find("leg replace has a device, a leg") !=
        std::string::npos);
  CHECK(wrong({"leg", "add", "m", "/a", "/b"}).find("'/b' is one word too many") !=
        std::string::npos);
  wrong({"leg"});
  wrong({"leg", "fail"});
}

TEST_CASE("migrate has two legs, wait --in-sync no event number") {
  const Command c = command({"migrate", "m", "--from", "0", "--to", "/new", "--timeout", "5s"});
  CHECK(c.migrate_from == "0");
  CHECK(c.migrate_to == "/new");
  CHECK(c.timeout_s == 5);
  wrong({"migrate", "m", "--from", "0"});
  wrong({"migrate", "--from", "0", "--to", "/new"});
  CHECK(command({"wait", "m", "--in-sync"}).in_sync);
  wrong({"wait", "m", "7", "--in-sync"});
  CHECK(command({"mirror-status", "m"}).verb == Verb::mirror_status);
  wrong({"mirror-status"});
}

TEST_CASE("apply --dry-run is check") {
  CHECK(command({"apply", "f"}).verb == Verb::apply);
  CHECK(command({"apply", "f", "--dry-run"}).verb == Verb::check);
  CHECK(command({"check", "-"}).file == "-");
  wrong({"apply"});
}

TEST_CASE("--socket and --json may stand before or after the verb") {
  CHECK(command({"--json", "ls"}).json);
  CHECK(command({"ls", "--json"}).json);
  CHECK(command({"--socket", "/a", "ls"}).socket == "/a");
  CHECK(command({"ls", "--socket=/a"}).socket == "/a");
  ::setenv("BLOCKLOOM_SOCKET", "/from/environment", 1);
  CHECK(command({"ls"}).socket == "/from/environment");
  CHECK(command({"ls", "--socket", "/a"}).socket == "/a");
  ::unsetenv("BLOCKLOOM_SOCKET");
  CHECK(command({"ls"}).socket == "/run/blockloom/control.sock");
}

TEST_CASE("times have units, and an end") {
  CHECK(parse_seconds("5") == 5);
  CHECK(parse_seconds("1.5s") == 1.5);
  CHECK(parse_seconds("250ms") == 0.25);
  CHECK(parse_seconds("2m") == 120);
  CHECK(parse_seconds("2h") == 7200);
  CHECK(parse_seconds("0") == 0);
  for (const char* text : {"", "s", "-1", "1x", "1 s", "3h", "1e9", ".", "1.2.3", "nan", "inf"}) {
    CAPTURE(text);
    CHECK_FALSE(parse_seconds(text));
  }
}

TEST_CASE("what is no command line is refused with the status for usage") {
  CHECK(wrong({}) == "blockloom: a verb is missing; see blockloom --help\n");
  CHECK(wrong({"frob"}) == "blockloom: 'frob' is not a verb; see blockloom --help\n");
  CHECK(wrong({"--json", "frob", "vol0"}).find("'frob' is not a verb;") != std::string::npos);
  CHECK(wrong({"--frob"}) == "blockloom: '--frob' is not an option; see blockloom --help\n");
  CHECK(wrong({"--socket"}).find("--socket") != std::string::npos);
  CHECK(wrong({"ls", "--frobnicate"}).find("--frobnicate") != std::string::npos);
  wrong({"ls", "too", "many"});
  wrong({"top", "--interval", "1ms"});
  wrong({"events", "--since", "x"});
}

TEST_CASE("help and version are no errors") {
  Parsed result = parsed({"--help"});
  CHECK(result.exit == Exit::ok);
  CHECK(result.text.find("attach-help") != std::string::npos);
  result = parsed({"--version"});
  CHECK(result.exit == Exit::ok);
  CHECK(result.text == "blockloom " BLOCKLOOM_VERSION "\n");
  result = parsed({"suspend", "--help"});
  CHECK(result.exit == Exit::ok);
  CHECK(result.text.find("--noflush") != std::string::npos);
}

TEST_CASE("help says of a verb whether it takes all devices when none is named") {
  const std::string all = "devices; none: all";
  for (const char* verb : {"info", "table", "status", "deps"}) {
    CAPTURE(verb);
    CHECK(parsed({verb, "--help"}).text.find(all) != std::string::npos);
    CHECK(command({verb}).devices.empty());
  }
  for (const char* verb : {"clear", "suspend", "resume", "remove"}) {
    CAPTURE(verb);
    const std::string help = parsed({verb, "--help"}).text;
    CHECK(help.find(" devices\n") != std::string::npos);
    CHECK(help.find("all") == help.find("all their I/O"));  // of remove --force
    CHECK(wrong({verb}).find("device is missing") != std::string::npos);
  }
}
