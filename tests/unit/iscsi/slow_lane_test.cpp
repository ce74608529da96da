#include <cstdlib>
#include <fstream>

#include <doctest/doctest.h>
#include <fcntl.h>
#include <sys/uio.h>
#include <unistd.h>

#include "server/leg/nowait.hpp"
#include "tests/unit/iscsi/initiator.hpp"

using namespace blockloom;

namespace {

const Octets read_8{0x28, 0, 0, 0, 0, 0, 0, 0, 8, 0};
const Octets flush{0x35, 0, 0, 0, 0, 0, 0, 0, 0, 0};

/// A file for a device, 1 MiB of one byte.
struct OnFile {
  // Not in the temporary folder, which may be memory: nothing is ever cold there.
  std::string path = "/var/tmp/blockloom-XXXXXX";
  OnFile() {
    const int fd = ::mkstemp(path.data());
    REQUIRE(fd >= 0);
    ::close(fd);
    std::ofstream(path, std::ios::binary) << std::string(1 << 20, 'x');
  }
  ~OnFile() { ::unlink(path.c_str()); }
  /// Nothing of the file is in the page cache any more, unless the kernel was asked in vain.
  bool cool() const {
    const int fd = ::open(path.c_str(), O_RDONLY | O_CLOEXEC);
    REQUIRE(fd >= 0);
    ::fsync(fd);
    ::posix_fadvise(fd, 0, 0, POSIX_FADV_DONTNEED);
    std::byte byte[512];
    const iovec part{byte, sizeof byte};
    const ssize_t n = ::preadv2(fd, &part, 1, 0, RWF_NOWAIT);
    const bool cold = n < 0 && errno == EAGAIN;
    ::close(fd);
    return cold;
  }
};

}  // namespace

TEST_CASE("a read of what is in the page cache ends at once; a cold one on another thread") {
  OnFile file;
  Bench bench({}, file.path);
  Initiator a(bench.target, bench.executor);
  a.settle();
  auto warm = a.start(read_8, {}, 4096);
  CHECK(warm->step == TaskStep::ended);
  CHECK(a.finish(*warm).data == blocks_of(4096, 'x'));
  // The kernel may have the page back before it is asked for: once in a while is enough.
  bool was_cold = false;
  for (int tries = 0; tries < 50 && !was_cold; ++tries) {
    if (!file.cool()) continue;
    const IoTotals before = bench.device().info().totals;
    auto read = a.start(read_8, {}, 4096);
    was_cold = read->step == TaskStep::running;
    CHECK(a.finish(*read).data == blocks_of(4096, 'x'));
    const IoTotals after = bench.device().info().totals;
    CHECK(after.reads == before.reads + 1);
    CHECK(after.errors == before.errors);
    CHECK(after.in_flight == 0);
  }
  CHECK_MESSAGE(was_cold, "no cold read in 50 tries: /var/tmp has to be on a disk");
}

TEST_CASE("a flush and a durable write go to another thread, where the leg is local") {
  Bench bench;
  Initiator a(bench.target, bench.executor);
  a.settle();
  auto flushing = a.start(flush);
  CHECK(flushing->step == TaskStep::running);
  CHECK(a.finish(*flushing).good());
  auto writing = a.start({0x2a, 0x08, 0, 0, 0, 0, 0, 0, 1, 0}, blocks_of(512, 7));
  REQUIRE(writing->step == TaskStep::wants_data);
  writing->send_data();
  CHECK(writing->step == TaskStep::running);
  CHECK(a.finish(*writing).good());
  CHECK(a.read({0x28, 0, 0, 0, 0, 0, 0, 0, 1, 0}, 512).data == blocks_of(512, 7));
}

TEST_CASE("many that wait all end, and one that is aborted is not answered") {
  Bench bench;
  Initiator a(bench.target, bench.executor);
  a.settle();
  std::vector<std::unique_ptr<Issued>> all;
  for (int i = 0; i < 200; ++i)
    all.push_back(a.start(flush));
  Initiator::Managing abort(a, TaskFunction::abort_task, &all.back()->task);
  abort.wait();
  CHECK(abort.management.response == TaskResponse::complete);
  for (const auto& one : all) {
    const Answer answer = a.finish(*one);
    CHECK((answer.good() || (answer.aborted && one == all.back())));
  }
}

TEST_CASE("a mirror or a device below never hears that a read must not wait") {
  Bench bench({}, "fault:[read=delay:1ms]:mem:1M");
  Initiator a(bench.target, bench.executor);
  a.settle();
  auto read = a.start(read_8, {}, 4096);
  CHECK(read->step == TaskStep::running);
  CHECK(a.finish(*read).good());
}
