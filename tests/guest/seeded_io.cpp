// seeded_io: the same I/O wherever it runs, for two devices that should behave as one.
//
//   seeded_io generate SEED BYTES               a stream of bytes to stdout
//   seeded_io run DEVICE SEED COUNT OPERATIONS  COUNT random requests to a block device, then reads
//                                               all of it; one line each to stdout
// OPERATIONS: letters of r (read), w (write), d (discard), z (zero out), s (fdatasync); a letter
// that comes twice is twice as likely.
//
// Equal seeds and sizes give equal requests, and a line holds nothing but the request and how it
// ended (a digest of what was read, or the errno), so that two logs can be compared as text.
// Static and small: it runs in a guest that has no more than a kernel and busybox.

#include <algorithm>
#include <array>
#include <cerrno>
#include <cinttypes>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <optional>
#include <random>
#include <span>
#include <string_view>

#include <fcntl.h>
#include <linux/fs.h>
#include <sys/ioctl.h>
#include <unistd.h>

#include "proto/text/number.hpp"

namespace {

constexpr std::uint64_t sector = 512;
constexpr std::uint64_t longest = 512 * sector;
constexpr std::uint64_t sweep_step = 8 * sector;

// O_DIRECT wants aligned memory.
alignas(4096) std::array<std::uint8_t, longest> buffer;

using Random = std::mt19937_64;  // the standard says what it yields, everywhere

std::uint64_t below(Random& rng, std::uint64_t bound) {
  return rng() % bound;
}

void fill(Random& rng, std::span<std::uint8_t> bytes) {
  for (std::size_t at = 0; at < bytes.size(); at += 8) {
    const std::uint64_t word = rng();
    std::memcpy(&bytes[at], &word, std::min<std::size_t>(8, bytes.size() - at));
  }
}

// FNV-1a, 64 bits.
std::uint64_t digest(std::span<const std::uint8_t> bytes) {
  std::uint64_t hash = 0xcbf29ce484222325;
  for (std::uint8_t byte : bytes)
    hash = (hash ^ byte) * 0x100000001b3;
  return hash;
}

std::optional<std::uint64_t> number(std::string_view word) {
  std::uint64_t value = 0;
  if (!blockloom::parse_whole(word, value)) return std::nullopt;
  return value;
}

struct Range {
  std::uint64_t offset, length;
};

// Mostly short, now and then long; one in two starts or ends near a round sector number, where
// chunks and segments have their borders.
Range random_range(Random& rng, std::uint64_t size) {
  const std::uint64_t sectors = size / sector;
  std::uint64_t length = 1 + below(rng, below(rng, 8) == 0 ? longest / sector : 24);
  length = std::min(length, sectors);
  std::uint64_t start = below(rng, sectors);
  if (below(rng, 2) == 0) {
    const std::uint64_t round = std::uint64_t(8) << below(rng, 6);
    start -= start % round;
    start -= std::min(start, below(rng, 4) == 0 ? length : below(rng, 3));
  }
  return {std::min(start, sectors - length) * sector, length * sector};
}

// 0 or the errno. A short transfer is an I/O error: nothing here ends inside a request.
int transferred(ssize_t result, std::uint64_t wanted) {
  if (result < 0) return errno;
  return std::uint64_t(result) == wanted ? 0 : EIO;
}

int range_ioctl(int fd, unsigned long code, Range range) {
  std::uint64_t words[2] = {range.offset, range.length};
  return ioctl(fd, code, words) == 0 ? 0 : errno;
}

void log(const char* what, Range range, int error) {
  std::printf("%s %" PRIu64 "+%" PRIu64, what, range.offset / sector, range.length / sector);
  if (error == 0)
    std::puts(" ok");
  else
    std::printf(" errno %d\n", error);
}

void read_range(int fd, Range range) {
  const std::span<std::uint8_t> bytes(buffer.data(), range.length);
  const int error =
      transferred(pread(fd, bytes.data(), bytes.size(), off_t(range.offset)), range.length);
  if (error != 0) return log("read", range, error);
  std::printf("read %" PRIu64 "+%" PRIu64 " %016" PRIx64 "\n", range.offset / sector,
              range.length / sector, digest(bytes));
}

void write_range(int fd, Random& rng, Range range) {
  const std::span<std::uint8_t> bytes(buffer.data(), range.length);
  fill(rng, bytes);
  log("write", range,
      transferred(pwrite(fd, bytes.data(), bytes.size(), off_t(range.offset)), range.length));
}

void one_request(int fd, Random& rng, std::uint64_t size, char operation) {
  const Range range = random_range(rng, size);
  if (operation == 'r')
    read_range(fd, range);
  else if (operation == 'w')
    write_range(fd, rng, range);
  else if (operation == 'd')
    log("discard", range, range_ioctl(fd, BLKDISCARD, range));
  else if (operation == 'z')
    log("zero", range, range_ioctl(fd, BLKZEROOUT, range));
  else
    log("sync", {0, 0}, fdatasync(fd) == 0 ? 0 : errno);
}

int run(const char* device, std::uint64_t seed, std::uint64_t count, std::string_view operations) {
  const int fd = open(device, O_RDWR | O_DIRECT | O_CLOEXEC);
  std::uint64_t size = 0;
  if (fd < 0 || ioctl(fd, BLKGETSIZE64, &size) != 0 || size < sector) {
    std::fprintf(stderr, "seeded_io: %s: expected a block device of a sector at least: %m\n",
                 device);
    return 1;
  }
  Random rng(seed);
  std::printf("size %" PRIu64 "\n", size / sector);
  for (std::uint64_t i = 0; i < count; i++) {
    std::printf("%" PRIu64 " ", i);
    one_request(fd, rng, size, operations[below(rng, operations.size())]);
  }
  std::puts("all of it:");
  for (std::uint64_t offset = 0; offset < size; offset += sweep_step)
    read_range(fd, {offset, std::min(sweep_step, size - offset)});
  return close(fd) == 0 && std::fflush(stdout) == 0 ? 0 : 1;
}

int generate(std::uint64_t seed, std::uint64_t bytes) {
  Random rng(seed);
  while (bytes > 0) {
    const std::size_t part = std::min<std::uint64_t>(bytes, buffer.size());
    fill(rng, {buffer.data(), part});
    if (std::fwrite(buffer.data(), 1, part, stdout) != part) {
      std::perror("seeded_io: write");
      return 1;
    }
    bytes -= part;
  }
  return std::fflush(stdout) == 0 ? 0 : 1;
}

int usage() {
  std::fputs(
      "usage: seeded_io generate SEED BYTES\n"
      "       seeded_io run DEVICE SEED COUNT OPERATIONS   (letters of rwdzs)\n",
      stderr);
  return 2;
}

}  // namespace

int main(int argc, char** argv) {
  const std::string_view verb = argc > 1 ? argv[1] : "";
  if (verb == "generate" && argc == 4) {
    const auto seed = number(argv[2]), bytes = number(argv[3]);
    if (seed && bytes) return generate(*seed, *bytes);
  }
  if (verb == "run" && argc == 6) {
    const auto seed = number(argv[3]), count = number(argv[4]);
    const std::string_view operations = argv[5];
    if (seed && count && !operations.empty() &&
        operations.find_first_not_of("rwdzs") == std::string_view::npos)
      return run(argv[2], *seed, *count, operations);
  }
  return usage();
}
