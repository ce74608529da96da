#include "clients/blockloom-dump/source.hpp"

#include <cerrno>
#include <cstdlib>
#include <cstring>

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include "clients/blockloom-dump/util.hpp"

namespace blockloom::sender {

Source::~Source() {
  std::free(memory_);
  if (fd_ > 0) ::close(fd_);
}

bool Source::open(const char* path, std::uint32_t chunk, std::uint64_t window) {
  const bool standard = std::strcmp(path, "-") == 0;
  fd_ = standard ? 0 : ::open(path, O_RDONLY | O_CLOEXEC);
  struct stat info {};
  if (fd_ < 0 || ::fstat(fd_, &info) != 0) {
    say("%s: %s", path, std::strerror(errno));
    return false;
  }
  // /proc/vmcore is a regular file; so is standard input from one.
  pipe_ = !S_ISREG(info.st_mode) && !S_ISBLK(info.st_mode);
  if (S_ISREG(info.st_mode) && info.st_size > 0) size_ = static_cast<std::uint64_t>(info.st_size);
  chunk_ = chunk;
  capacity_ = window / chunk * chunk;
  if (capacity_ < 2 * std::uint64_t{chunk}) capacity_ = 2 * std::uint64_t{chunk};
  const std::size_t bytes = pipe_ ? capacity_ : chunk;
  memory_ = static_cast<unsigned char*>(std::malloc(bytes));
  if (memory_ == nullptr) {
    say("no memory for %llu bytes: a smaller --window helps",
        static_cast<unsigned long long>(bytes));
    return false;
  }
  return true;
}

bool Source::fill(unsigned char* to, std::uint64_t offset, std::size_t& size) {
  size = 0;
  while (size < chunk_) {
    const ssize_t n =
        pipe_ ? ::read(fd_, to + size, chunk_ - size)
              : ::pread(fd_, to + size, chunk_ - size, static_cast<off_t>(offset + size));
    if (n < 0 && errno == EINTR) continue;
    if (n < 0) {
      say("cannot read the image at %llu: %s", static_cast<unsigned long long>(offset + size),
          std::strerror(errno));
      return false;
    }
    if (n == 0) break;
    size += static_cast<std::size_t>(n);
  }
  return true;
}

bool Source::read(std::uint64_t offset, const unsigned char** bytes, std::size_t& size) {
  if (!pipe_) {
    *bytes = memory_;
    return fill(memory_, offset, size);
  }
  unsigned char* place = memory_ + offset % capacity_;
  *bytes = place;
  if (offset < next_) {
    if (offset < kept_from_) {
      say("the server asks for bytes at %llu again, which a pipe no longer has",
          static_cast<unsigned long long>(offset));
      return false;
    }
    size = end_ - offset < chunk_ ? static_cast<std::size_t>(end_ - offset) : chunk_;
    return true;
  }
  if (offset >= end_) {
    size = 0;
    return true;
  }
  if (!fill(place, offset, size)) return false;
  if (size < chunk_) end_ = offset + size;
  next_ = offset + size;
  return true;
}

}  // namespace blockloom::sender
