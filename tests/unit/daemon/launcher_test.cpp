#include "server/daemon/launcher.hpp"

#include <algorithm>
#include <string>
#include <vector>

#include <doctest/doctest.h>
#include <unistd.h>

using namespace blockloom;

namespace {

using Words = std::vector<std::string>;

Words command(const std::string& text, bool verbose = false) {
  auto config = parse_config({{"b.toml", text}});
  REQUIRE_MESSAGE(config, config.error().message);
  LaunchOptions options;
  options.config = "/etc/b.toml";
  options.verbose = verbose;
  return nbdkit_command(*config, options, {"/usr/bin/nbdkit", "/lib/blockloom.so"});
}

}  // namespace

TEST_CASE("a command without settings has the plugin, its configuration and no listener") {
  CHECK(command("") == Words{"/usr/bin/nbdkit", "--foreground", "--tls=off", "/lib/blockloom.so",
                             "config=/etc/b.toml"});
}

TEST_CASE("threads and verbosity reach nbdkit") {
  const Words words = command("[server]\nthreads = 3\n", true);
  CHECK(std::count(words.begin(), words.end(), "--threads=3") == 1);
  CHECK(std::count(words.begin(), words.end(), "--verbose") == 1);
}

TEST_CASE("filters stand before the plugin in their order, their parameters after it") {
  const Words words = command(
      "[server]\nfilters = [{name = \"stats\", params = {statsfile = \"/a b\"}},\n"
      "{name = \"delay\", params = {wdelay = 2, rdelay = 1}}]\n");
  CHECK(words == Words{"/usr/bin/nbdkit", "--foreground", "--tls=off", "--filter=stats",
                       "--filter=delay", "/lib/blockloom.so", "config=/etc/b.toml",
                       "statsfile=/a b", "rdelay=1", "wdelay=2"});
}

TEST_CASE("TLS by keys or by certificates") {
  CHECK(command("[tls]\nmode = \"require\"\npsk = \"/k\"\n") ==
        Words{"/usr/bin/nbdkit", "--foreground", "--tls=require", "--tls-psk=/k",
              "/lib/blockloom.so", "config=/etc/b.toml"});
  CHECK(command("[tls]\nmode = \"on\"\ncertificates = \"/c\"\nverify_peer = true\n") ==
        Words{"/usr/bin/nbdkit", "--foreground", "--tls=on", "--tls-certificates=/c",
              "--tls-verify-peer", "/lib/blockloom.so", "config=/etc/b.toml"});
  CHECK(command("[tls]\nmode = \"off\"\npsk = \"/k\"\n") == command(""));
}

TEST_CASE("a shell reads the line back as the words it was made of") {
  CHECK(shell_line({"a", "b=c", "/d.e"}) == "a b=c /d.e");
  CHECK(shell_line({"with space", "", "it's", "$HOME"}) == "'with space' '' 'it'\\''s' '$HOME'");
}

TEST_CASE("without a user the process stays who it is") {
  auto who = find_identity(Config{});
  REQUIRE(who);
  CHECK_FALSE(who->change);
}

TEST_CASE("the user of the process itself needs no right") {
  Config config;
  config.user = std::to_string(::geteuid());
  config.group = std::to_string(::getegid());
  auto who = find_identity(config);
  REQUIRE(who);
  CHECK_FALSE(who->change);
}

TEST_CASE("users and groups that do not exist are named") {
  Config config;
  config.user = "no-such-user";
  auto who = find_identity(config);
  REQUIRE_FALSE(who);
  CHECK(who.error().message == "server.user 'no-such-user': there is none of that name");
  config.user.clear();
  config.group = "no-such-group";
  who = find_identity(config);
  REQUIRE_FALSE(who);
  CHECK(who.error().message == "server.group 'no-such-group': there is none of that name");
}

TEST_CASE("a user by number without an account needs a group") {
  Config config;
  config.user = "3999999999";
  auto who = find_identity(config);
  REQUIRE_FALSE(who);
  CHECK(who.error().message.find("server.group has to be given too") != std::string::npos);
}

TEST_CASE("programs that are missing are named, with what to do") {
  LaunchOptions options;
  options.nbdkit = "/no/such/nbdkit";
  auto programs = find_programs(options);
  REQUIRE_FALSE(programs);
  CHECK(programs.error().message == "nbdkit '/no/such/nbdkit': expected a program");
  options.nbdkit = "no-such-nbdkit";
  programs = find_programs(options);
  REQUIRE_FALSE(programs);
  CHECK(programs.error().message.find("install nbdkit") != std::string::npos);
}
