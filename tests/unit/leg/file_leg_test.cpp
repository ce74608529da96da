#include <fcntl.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#include "tests/unit/leg/leg_test.hpp"

using namespace blockloom;
using namespace blockloom::test;
namespace fs = std::filesystem;

namespace {

constexpr std::uint64_t KiB = 1024, MiB = 1024 * KiB;

Data contents(const std::string& path) {
  std::ifstream in(path, std::ios::binary);
  const std::string text((std::istreambuf_iterator<char>(in)), {});
  Data data(text.size());
  std::copy(text.begin(), text.end(), reinterpret_cast<char*>(data.data()));
  return data;
}

std::uint64_t allocated(const std::string& path) {
  struct stat info {};
  REQUIRE(stat(path.c_str(), &info) == 0);
  return static_cast<std::uint64_t>(info.st_blocks) * 512;
}

/// Holes are the file system's to make: without them a test of holes says so and fails.
void require_holes(const std::string& path) {
  REQUIRE_MESSAGE(allocated(path) < fs::file_size(path),
                  "the temporary folder's file system has no sparse files: set TMPDIR");
}

}  // namespace

TEST_CASE("what is written at an offset is read back there, and is in the file") {
  const TempDir dir;
  const std::string path = dir.file("a", MiB);
  auto leg = open(path);
  CHECK(leg->size() == Bytes(MiB));
  CHECK(leg->uri() == path);
  CHECK(leg->inline_only());
  CHECK_FALSE(leg->read_only());
  const Data data = noise(12 * KiB);
  CHECK(write(*leg, 4 * KiB, data) == Errc::ok);
  CHECK(read(*leg, 4 * KiB, data.size()) == data);
  CHECK(read(*leg, 0, 4 * KiB) == zeroes(4 * KiB));
  const Data file = contents(path);
  CHECK(std::equal(data.begin(), data.end(), file.begin() + 4 * KiB));
  CHECK(file.size() == MiB);
}

TEST_CASE("a durable write, and one with durable trim and zero, do the same") {
  const TempDir dir;
  auto leg = open(dir.file("a", MiB));
  const Data data = noise(8 * KiB);
  CHECK(write(*leg, 512, data, io_flag::fua) == Errc::ok);
  CHECK(read(*leg, 512, data.size()) == data);
  CHECK(run(*leg, Op::zero, 512, 4 * KiB, io_flag::fua) == Errc::ok);
  CHECK(read(*leg, 512, 4 * KiB) == zeroes(4 * KiB));
  CHECK(run(*leg, Op::trim, 4 * KiB, 4 * KiB, io_flag::fua) == Errc::ok);
  CHECK(run(*leg, Op::flush, 0, 0) == Errc::ok);
}

TEST_CASE("file:// names a path with escapes") {
  const TempDir dir;
  const std::string path = dir.file("a b%", MiB);
  auto leg = open("file://" + (dir / "a%20b%25"));
  CHECK(leg->size() == Bytes(MiB));
  CHECK(leg->uri() == "file://" + (dir / "a%20b%25"));
}

TEST_CASE("a plain path takes percent signs as they are") {
  const TempDir dir;
  CHECK(open(dir.file("a%20b", 512))->size() == Bytes(512));
}

TEST_CASE("the size is what it was at open") {
  const TempDir dir;
  const std::string path = dir.file("a", MiB);
  auto leg = open(path);
  fs::resize_file(path, 2 * MiB);
  CHECK(leg->size() == Bytes(MiB));
}

TEST_CASE("a read beyond the end of a file that shrank fails, wholly or partly beyond") {
  const TempDir dir;
  const std::string path = dir.file("a", MiB);
  auto leg = open(path);
  fs::resize_file(path, 6 * KiB);
  CHECK(run(*leg, Op::read, 512 * KiB, 4 * KiB) == Errc::io);
  CHECK(run(*leg, Op::read, 4 * KiB, 4 * KiB) == Errc::io);
  CHECK(run(*leg, Op::read, 0, 4 * KiB) == Errc::ok);
}

TEST_CASE("a leg is ready until its file shrinks") {
  const TempDir dir;
  const std::string path = dir.file("a", MiB);
  auto leg = open("fault:[]:" + path);
  CHECK(leg->ready());
  fs::resize_file(path, 2 * MiB);
  CHECK(leg->ready());
  fs::resize_file(path, 4096);
  const auto ready = leg->ready();
  REQUIRE_FALSE(ready);
  CHECK(ready.code() == Errc::io);
  CHECK(ready.error().message == "leg '" + path +
                                     "' has shrunk from 1048576 to 4096 bytes since it was "
                                     "opened: load the table again");
}

TEST_CASE("extents of a file that shrank still cover what was asked for") {
  const TempDir dir;
  const std::string path = dir.file("a", MiB);
  auto leg = open(path);
  REQUIRE(write(*leg, 0, noise(MiB)) == Errc::ok);
  fs::resize_file(path, 4 * KiB + 100);
  Bytes covered;
  for (const Extent& extent : extents(*leg, 0, MiB)) {
    CHECK(extent.length.value % 512 == 0);
    covered += extent.length;
    // A copier must read the lost end and fail, not take it for zeroes.
    CHECK_FALSE(extent.hole);
  }
  CHECK(covered == Bytes(MiB));
}

TEST_CASE("a read-only leg reads, and refuses to change anything") {
  const TempDir dir;
  const std::string path = dir.file("a", MiB);
  fs::permissions(path, fs::perms::owner_read);
  auto leg = open(path, true);
  CHECK(leg->read_only());
  CHECK(read(*leg, 0, 512) == zeroes(512));
  CHECK(write(*leg, 0, noise(512)) == Errc::read_only);
  CHECK(run(*leg, Op::trim, 0, 512) == Errc::read_only);
  CHECK(run(*leg, Op::zero, 0, 512) == Errc::read_only);
  CHECK(run(*leg, Op::flush, 0, 0) == Errc::ok);
}

TEST_CASE("trim makes a hole where the file system can") {
  const TempDir dir;
  const std::string path = dir.file("a", 4 * MiB);
  require_holes(path);
  auto leg = open(path);
  REQUIRE(write(*leg, 0, noise(4 * MiB)) == Errc::ok);
  REQUIRE(run(*leg, Op::flush, 0, 0) == Errc::ok);
  const auto before = allocated(path);
  CHECK(run(*leg, Op::trim, MiB, 2 * MiB) == Errc::ok);
  CHECK(allocated(path) + 2 * MiB <= before);
  CHECK(read(*leg, MiB, 2 * MiB) == zeroes(2 * MiB));
}

TEST_CASE("zero reads as zeroes, with its neighbours untouched, whatever its flags") {
  const TempDir dir;
  const std::string path = dir.file("a", MiB);
  auto leg = open(path);
  const Data data = noise(MiB);
  for (const int flags :
       {0, int{io_flag::may_trim}, int{io_flag::fua}, io_flag::may_trim | io_flag::fua}) {
    CAPTURE(flags);
    REQUIRE(write(*leg, 0, data) == Errc::ok);
    CHECK(run(*leg, Op::zero, 512, 200 * KiB, static_cast<std::uint8_t>(flags)) == Errc::ok);
    CHECK(read(*leg, 512, 200 * KiB) == zeroes(200 * KiB));
    CHECK(read(*leg, 0, 512) == Data(data.begin(), data.begin() + 512));
    CHECK(read(*leg, 512 + 200 * KiB, 512) ==
          Data(data.begin() + 512 + 200 * KiB, data.begin() + 1024 + 200 * KiB));
  }
  CHECK(fs::file_size(path) == MiB);
}

TEST_CASE("fast zero either zeroes or says that it cannot, and changes nothing then") {
  const TempDir dir;
  auto leg = open(dir.file("a", MiB));
  const Data data = noise(64 * KiB);
  REQUIRE(write(*leg, 0, data) == Errc::ok);
  const Errc result = run(*leg, Op::zero, 0, 64 * KiB, io_flag::fast);
  if (result == Errc::ok) {
    CHECK(read(*leg, 0, 64 * KiB) == zeroes(64 * KiB));
  } else {
    CHECK(result == Errc::not_supported);
    CHECK(read(*leg, 0, 64 * KiB) == data);
    CHECK(leg->totals().errors == 0);
  }
}

TEST_CASE("extents tell holes from data") {
  const TempDir dir;
  const std::string path = dir.file("a", 4 * MiB);
  require_holes(path);
  auto leg = open(path);
  REQUIRE(write(*leg, MiB, noise(MiB)) == Errc::ok);
  REQUIRE(run(*leg, Op::flush, 0, 0) == Errc::ok);
  const Extent hole{Bytes(MiB), true, true}, data{Bytes(MiB), false, false};
  CHECK(extents(*leg, 0, 3 * MiB) == std::vector{hole, data, hole});
  CHECK(extents(*leg, 0, 3 * MiB, io_flag::one_extent) == std::vector{hole});
  CHECK(extents(*leg, MiB, 3 * MiB, io_flag::one_extent) == std::vector{data});
  CHECK(extents(*leg, MiB + 512 * KiB, 512 * KiB) ==
        std::vector{Extent{Bytes(512 * KiB), false, false}});
  CHECK(extents(*leg, 3 * MiB, MiB) == std::vector{hole});
}

TEST_CASE("a full list of extents ends the answer early, with what fits") {
  const TempDir dir;
  const std::string path = dir.file("a", 4 * MiB);
  require_holes(path);
  auto leg = open(path);
  for (std::uint64_t at = 0; at < 4 * MiB; at += 128 * KiB)
    REQUIRE(write(*leg, at, noise(64 * KiB)) == Errc::ok);
  TestIo io(Op::extents, 0, 4 * MiB);
  io.extents = Extents(3);
  CHECK(io.run(*leg) == Errc::ok);
  CHECK(io.extents.list().size() == 3);
  CHECK(io.extents.covered() == Bytes(192 * KiB));
}

TEST_CASE("cache is a hint that succeeds") {
  const TempDir dir;
  auto leg = open(dir.file("a", MiB));
  CHECK(run(*leg, Op::cache, 0, MiB) == Errc::ok);
}

TEST_CASE("a leg counts what passes, and times what the device chose") {
  const TempDir dir;
  const std::string path = dir.file("a", MiB);
  auto leg = open(path);
  for (int i = 0; i < 16; ++i)
    REQUIRE(write(*leg, 0, noise(4 * KiB)) == Errc::ok);
  read(*leg, 0, 512);
  REQUIRE(run(*leg, Op::flush, 0, 0) == Errc::ok);
  fs::resize_file(path, 0);
  REQUIRE(run(*leg, Op::read, 0, 512) == Errc::io);
  TestIo timed(Op::cache, 0, 512);
  timed.io.start_ns = 1;
  REQUIRE(timed.run(*leg) == Errc::ok);
  const IoTotals totals = leg->totals();
  CHECK(totals.writes == 16);
  CHECK(totals.write_bytes == 64 * KiB);
  CHECK(totals.reads == 2);
  CHECK(totals.others == 2);
  CHECK(totals.errors == 1);
  CHECK(totals.in_flight == 0);
  CHECK(totals.samples == 1);
  CHECK(totals.sampled_ns < now_ns());  // its own time, not since start_ns
}

TEST_CASE("reads through a leg leave a file's access time alone") {
  const TempDir dir;
  const std::string path = dir.file("a", MiB);
  const timespec long_ago[2] = {{1000000, 0}, {1000000, 0}};
  REQUIRE(utimensat(AT_FDCWD, path.c_str(), long_ago, 0) == 0);
  auto leg = open(path);
  read(*leg, 0, 4 * KiB);
  struct stat info {};
  REQUIRE(stat(path.c_str(), &info) == 0);
  CHECK(info.st_atim.tv_sec == 1000000);
}

TEST_CASE("a file of another owner opens too, though its access times are kept") {
  if (geteuid() != 0) {
    MESSAGE("SKIP: needs root, to become another user");
    return;
  }
  const TempDir dir;
  fs::permissions(dir / "", fs::perms::group_exec, fs::perm_options::add);
  const std::string path = dir.file("a", MiB);
  fs::permissions(path, fs::perms::group_read, fs::perm_options::add);
  REQUIRE(seteuid(65534) == 0);
  LegContext context;
  const auto leg = open_leg(path, true, context);
  REQUIRE(seteuid(0) == 0);
  CHECK(leg.code() == Errc::ok);
}

TEST_CASE("what is not a file or block device is refused by its kind") {
  const TempDir dir;
  fs::create_directory(dir / "folder");
  REQUIRE(mkfifo((dir / "pipe").c_str(), 0600) == 0);
  const int socket_fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
  sockaddr_un address{};
  address.sun_family = AF_UNIX;
  (dir / "socket").copy(address.sun_path, sizeof address.sun_path - 1);
  REQUIRE(bind(socket_fd, reinterpret_cast<sockaddr*>(&address), sizeof address) == 0);
  close(socket_fd);
  const struct {
    std::string path, kind;
  } rows[] = {{dir / "folder", "a directory"},
              {dir / "pipe", "a pipe"},
              {dir / "socket", "a socket"},
              {"/dev/null", "a character device"}};
  for (const auto& row : rows)
    CHECK(refusal(row.path) ==
          "leg '" + row.path + "': is " + row.kind + ": expected a regular file or a block device");
}

TEST_CASE("a name that leads nowhere, or is malformed, is refused with what was expected") {
  const TempDir dir;
  const struct {
    std::string uri, message;
  } rows[] = {
      {dir / "none", "cannot be found: No such file or directory"},
      {"file://host/a", "expected an absolute path: /path or file:///path"},
      {"file:/a", "expected an absolute path: /path or file:///path"},
      {"file:///a%2", "'%2': expected two hexadecimal digits other than 00 after each %"},
      {"file:///a%00b", "'%00': expected two hexadecimal digits other than 00 after each %"},
      {"file:///%zz", "'%zz': expected two hexadecimal digits other than 00 after each %"},
  };
  for (const auto& row : rows)
    CHECK(refusal(row.uri) == "leg '" + row.uri + "': " + row.message);
}

TEST_CASE("a file that cannot be written is refused for writing only") {
  // A running program is such a file, even for root.
  const std::string path = fs::read_symlink("/proc/self/exe");
  CHECK(refusal(path).ends_with("': cannot be opened for writing: Text file busy"));
  CHECK(open(path, true)->size() == Bytes(fs::file_size(path)));
}

TEST_CASE("a descriptor of a leg does not outlive exec, and is closed with the leg") {
  const TempDir dir;
  const std::string path = dir.file("a", 512);
  const auto descriptors = [&] {
    std::vector<int> found;
    for (const auto& entry : fs::directory_iterator("/proc/self/fd")) {
      std::error_code gone;
      if (fs::read_symlink(entry.path(), gone) == path)
        found.push_back(std::stoi(entry.path().filename().string()));
    }
    return found;
  };
  auto leg = open(path);
  REQUIRE(descriptors().size() == 1);
  CHECK((fcntl(descriptors()[0], F_GETFD) & FD_CLOEXEC) != 0);
  leg.reset();
  CHECK(descriptors().empty());
}
