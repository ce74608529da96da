#include "plugins/nbdkit/parameters.hpp"

#include <cstdio>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <string>

#include <doctest/doctest.h>
#include <unistd.h>

using namespace blockloom;
using blockloom::nbd::Parameters;

namespace {

/// A file of its own, gone with the object.
class TemporaryFile {
 public:
  explicit TemporaryFile(const std::string& text) {
    const int fd = ::mkstemp(path_);
    REQUIRE(fd >= 0);
    ::close(fd);
    std::ofstream(path_) << text;
  }
  ~TemporaryFile() { std::remove(path_); }
  std::string path() const { return path_; }

 private:
  char path_[64] = "/tmp/blockloom-parameters-XXXXXX";
};

std::string error_of(std::string_view key, std::string_view value) {
  Parameters parameters;
  const Result<void> added = parameters.add(key, value);
  return added ? "" : added.error().message;
}

}  // namespace

TEST_CASE("lines of one table add up, in order, into the device 'default'") {
  Parameters parameters;
  REQUIRE(parameters.add("table", "0 8 zero"));
  REQUIRE(parameters.add("table", "8 8 error\n16 8 zero\n"));
  const auto options = parameters.finish();
  REQUIRE(options);
  REQUIRE(options.value().devices.size() == 1);
  CHECK(options.value().devices[0].name == "default");
  CHECK(options.value().devices[0].table == "0 8 zero\n8 8 error\n16 8 zero\n");
  CHECK_FALSE(options.value().devices[0].read_only);
}

TEST_CASE("devices have names of their own, and a table may hold colons") {
  Parameters parameters;
  REQUIRE(parameters.add("device", "a:0 8 linear mem:1M 0"));
  REQUIRE(parameters.add("device", "b:0 8 zero"));
  REQUIRE(parameters.add("device", "a:8 8 zero"));
  REQUIRE(parameters.add("default", "b"));
  REQUIRE(parameters.add("readonly", "true"));
  const auto options = parameters.finish();
  REQUIRE(options);
  REQUIRE(options.value().devices.size() == 2);
  CHECK(options.value().devices[0].name == "a");
  CHECK(options.value().devices[0].table == "0 8 linear mem:1M 0\n8 8 zero\n");
  CHECK(options.value().devices[0].read_only);
  CHECK(options.value().devices[1].read_only);
  CHECK(options.value().default_device == "b");
}

TEST_CASE("a table that starts with @ is read from that file") {
  const TemporaryFile file("# a comment\n0 8 zero");
  Parameters parameters;
  REQUIRE(parameters.add("device", "a:@" + file.path()));
  const auto options = parameters.finish();
  REQUIRE(options);
  CHECK(options.value().devices[0].table == "# a comment\n0 8 zero\n");
}

TEST_CASE("paths are made absolute at once, because nbdkit changes directory later") {
  Parameters parameters;
  REQUIRE(parameters.add("config", "blockloom.toml"));
  REQUIRE(parameters.add("control", "./run/control.sock"));
  REQUIRE(parameters.add("state", "/var/lib/blockloom"));
  const auto options = parameters.finish();
  REQUIRE(options);
  const std::string here = std::filesystem::current_path().string();
  CHECK(options.value().config == here + "/blockloom.toml");
  CHECK(options.value().control_socket == here + "/./run/control.sock");
  CHECK(options.value().state_dir == "/var/lib/blockloom");
}

TEST_CASE("a bad parameter is named, with what was expected") {
  CHECK(error_of("tabel", "x").find("unknown parameter 'tabel': expected table, device") == 0);
  CHECK(error_of("device", "noname").find("device=noname: expected NAME:TABLE") == 0);
  CHECK(error_of("device", ":0 8 zero").find("expected NAME:TABLE") != std::string::npos);
  CHECK(error_of("device", "a:").find("expected NAME:TABLE") != std::string::npos);
  CHECK(error_of("readonly", "maybe") == "readonly=maybe: expected true or false");
  CHECK(error_of("config", "").find("config=: empty value, expected a path") == 0);
  CHECK(error_of("default", "").find("default=: empty value") == 0);
  CHECK(error_of("table", "@/nowhere/at/all").find("table file '/nowhere/at/all'") !=
        std::string::npos);
  CHECK(error_of("table", "@/tmp").find("'/tmp': is a folder") != std::string::npos);
}

TEST_CASE("what may be given once is refused twice") {
  Parameters parameters;
  REQUIRE(parameters.add("control", "/a"));
  const auto again = parameters.add("control", "/b");
  REQUIRE_FALSE(again);
  CHECK(again.error().message == "control= is given twice, expected once");
}

TEST_CASE("an endless table file is refused, not read for ever") {
  CHECK(error_of("table", "@/dev/zero").find("longer than 16 MiB") != std::string::npos);
}

TEST_CASE("without anything to serve the message says what to give") {
  Parameters parameters;
  const auto options = parameters.finish();
  REQUIRE_FALSE(options);
  CHECK(options.error().message.find("nothing to serve: give table=") == 0);
}

TEST_CASE("a control socket alone is enough: devices may be created later") {
  Parameters parameters;
  REQUIRE(parameters.add("control", "/run/x.sock"));
  CHECK(parameters.finish());
}
