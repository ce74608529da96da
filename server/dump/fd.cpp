#include "server/dump/fd.hpp"

#include <algorithm>
#include <cerrno>

#include <unistd.h>

namespace blockloom::dump {

Result<void> write_all(int fd, std::string_view bytes, std::uint64_t offset) {
  while (!bytes.empty()) {
    const ssize_t n = ::pwrite(fd, bytes.data(), bytes.size(), static_cast<off_t>(offset));
    if (n < 0 && errno == EINTR) continue;
    if (n <= 0) return system_error("write", n < 0 ? errno : ENOSPC);
    bytes.remove_prefix(static_cast<std::size_t>(n));
    offset += static_cast<std::uint64_t>(n);
  }
  return {};
}

Result<std::size_t> read_at(int fd, std::uint64_t offset, std::span<std::byte> into) {
  std::size_t have = 0;
  while (have < into.size()) {
    const ssize_t n =
        ::pread(fd, into.data() + have, into.size() - have, static_cast<off_t>(offset + have));
    if (n < 0 && errno == EINTR) continue;
    if (n < 0) return system_error("read", errno);
    if (n == 0) break;
    have += static_cast<std::size_t>(n);
  }
  return have;
}

Result<std::string> read_up_to(int fd, std::size_t most) {
  std::string bytes;
  constexpr std::size_t step = 65536;
  while (bytes.size() < most) {
    const std::size_t have = bytes.size(), wanted = std::min(step, most - have);
    bytes.resize(have + wanted);
    const ssize_t n = ::pread(fd, bytes.data() + have, wanted, static_cast<off_t>(have));
    if (n < 0 && errno != EINTR) return system_error("read", errno);
    bytes.resize(have + static_cast<std::size_t>(n > 0 ? n : 0));
    if (n == 0) break;
  }
  return bytes;
}

}  // namespace blockloom::dump
