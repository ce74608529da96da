#include "server/control/socket_file.hpp"

#include <fstream>

#include <doctest/doctest.h>
#include <sys/stat.h>
#include <unistd.h>

#include "tests/unit/control/support.hpp"

using namespace blockloom;
using control::SocketFile;

namespace {

mode_t mode_of(const std::string& path) {
  struct stat there {};
  REQUIRE(::lstat(path.c_str(), &there) == 0);
  return there.st_mode;
}

bool exists(const std::string& path) {
  return ::access(path.c_str(), F_OK) == 0;
}

}  // namespace

TEST_CASE("the socket is for its owner only, whatever the umask") {
  TempFolder folder;
  for (const mode_t mask : {0000, 0022, 0777}) {
    const mode_t before = ::umask(mask);
    auto made = SocketFile::create(folder.path("s" + std::to_string(mask)));
    ::umask(before);
    REQUIRE(made);
    CHECK(mode_of(folder.path("s" + std::to_string(mask))) == (S_IFSOCK | 0600));
    // The lock file of the next round needs a mode that can be opened: each has its own.
  }
}

TEST_CASE("a socket goes with its owner, and one that is somebody else's by now stays") {
  TempFolder folder;
  const std::string path = folder.path("s");
  auto made = SocketFile::create(path);
  REQUIRE(made);
  made->reset();
  CHECK_FALSE(exists(path));

  made = SocketFile::create(path);
  REQUIRE(made);
  REQUIRE(::unlink(path.c_str()) == 0);
  std::ofstream(path) << "another's";
  made->reset();
  CHECK(exists(path));
}

TEST_CASE("a socket that somebody listens on is left alone") {
  TempFolder folder;
  const std::string path = folder.path("s");
  auto first = SocketFile::create(path);
  REQUIRE(first);
  auto second = SocketFile::create(path);
  REQUIRE_FALSE(second);
  CHECK(second.code() == Errc::busy);
  CHECK(second.error().message.find(path) != std::string::npos);

  // Also without the lock file, which a tidy-up may have removed.
  REQUIRE(::unlink((path + ".lock").c_str()) == 0);
  second = SocketFile::create(path);
  REQUIRE_FALSE(second);
  CHECK(second.code() == Errc::busy);
  TestClient client(path);  // the first one's still
}

TEST_CASE("a socket that nobody listens on is replaced") {
  TempFolder folder;
  const std::string path = folder.path("s");
  auto first = SocketFile::create(path);
  REQUIRE(first);
  // As a killed server leaves it: the file there, its descriptors gone.
  REQUIRE(::link(path.c_str(), folder.path("kept").c_str()) == 0);
  first->reset();
  REQUIRE(::rename(folder.path("kept").c_str(), path.c_str()) == 0);
  REQUIRE(exists(path));
  auto second = SocketFile::create(path);
  REQUIRE_MESSAGE(bool(second), second.error().message);
  TestClient client(path);
}

TEST_CASE("a file that is no socket is not removed") {
  TempFolder folder;
  const std::string path = folder.path("s");
  std::ofstream(path) << "precious";
  auto made = SocketFile::create(path);
  REQUIRE_FALSE(made);
  CHECK(made.code() == Errc::exists);
  CHECK(exists(path));
}

TEST_CASE("a path that cannot be is refused with a reason") {
  TempFolder folder;
  for (const std::string& path : {std::string(), std::string("relative"),
                                  folder.path("no/folder/s"), folder.path(std::string(200, 'x'))}) {
    CAPTURE(path);
    auto made = SocketFile::create(path);
    REQUIRE_FALSE(made);
    CHECK(made.error().message.find("control socket") == 0);
  }
}
