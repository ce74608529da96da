// Preloaded: a file on a disk that does not answer. While the file GATE is there, calls that would
// reach the disk under FILE wait; what must not wait is told so, as the kernel tells it of a file
// that is not in the page cache.
//
//   BLOCKLOOM_SLOW_FILE=FILE BLOCKLOOM_SLOW_GATE=GATE LD_PRELOAD=slow-disk.so
#include <cerrno>
#include <cstdlib>

#include <dlfcn.h>
#include <sys/stat.h>
#include <sys/uio.h>
#include <unistd.h>

namespace {

bool closed() {
  const char* const gate = std::getenv("BLOCKLOOM_SLOW_GATE");
  return gate != nullptr && ::access(gate, F_OK) == 0;
}

bool is_slow(int fd) {
  const char* const path = std::getenv("BLOCKLOOM_SLOW_FILE");
  struct stat mine {
  }, theirs{};
  return path != nullptr && ::stat(path, &mine) == 0 && ::fstat(fd, &theirs) == 0 &&
         mine.st_dev == theirs.st_dev && mine.st_ino == theirs.st_ino;
}

void wait_for(int fd) {
  while (closed() && is_slow(fd))
    ::usleep(2000);
}

template <class Function>
Function* next(const char* name) {
  return reinterpret_cast<Function*>(::dlsym(RTLD_NEXT, name));
}

}  // namespace

extern "C" {

ssize_t pread64(int fd, void* to, size_t count, off64_t at) {
  static const auto real = next<ssize_t(int, void*, size_t, off64_t)>("pread64");
  wait_for(fd);
  return real(fd, to, count, at);
}

ssize_t preadv64v2(int fd, const iovec* to, int count, off64_t at, int flags) {
  static const auto real = next<ssize_t(int, const iovec*, int, off64_t, int)>("preadv64v2");
  if ((flags & RWF_NOWAIT) != 0 && closed() && is_slow(fd)) {
    errno = EAGAIN;
    return -1;
  }
  wait_for(fd);
  return real(fd, to, count, at, flags);
}

ssize_t pwritev64v2(int fd, const iovec* from, int count, off64_t at, int flags) {
  static const auto real = next<ssize_t(int, const iovec*, int, off64_t, int)>("pwritev64v2");
  if ((flags & RWF_DSYNC) != 0) wait_for(fd);
  return real(fd, from, count, at, flags);
}

int fdatasync(int fd) {
  static const auto real = next<int(int)>("fdatasync");
  wait_for(fd);
  return real(fd);
}
}
