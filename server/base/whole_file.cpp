#include "server/base/whole_file.hpp"

#include <cerrno>

#include <fcntl.h>
#include <fmt/format.h>
#include <sys/stat.h>

#include "server/base/unique_fd.hpp"

namespace blockloom {
namespace {

Error failed(std::string_view what, const std::string& path, std::string_view step) {
  return system_error(fmt::format("{} '{}': {}", what, path, step), errno);
}

}  // namespace

Result<std::optional<std::string>> read_whole(std::string_view what, const std::string& path,
                                              std::size_t most) {
  const UniqueFd file(::open(path.c_str(), O_RDONLY | O_CLOEXEC));
  if (!file && errno == ENOENT) return std::optional<std::string>();
  struct stat info {};
  if (!file || ::fstat(file.get(), &info) != 0) return failed(what, path, "open");
  if (static_cast<std::size_t>(info.st_size) > most)
    return Error{Errc::corrupt, fmt::format("{} '{}' has {} bytes: expected at most {}", what, path,
                                            info.st_size, most)};
  std::string bytes(static_cast<std::size_t>(info.st_size), '\0');
  std::size_t have = 0;
  while (have < bytes.size()) {
    const ssize_t n = ::read(file.get(), bytes.data() + have, bytes.size() - have);
    if (n < 0 && errno == EINTR) continue;
    if (n < 0) return failed(what, path, "read");
    if (n == 0) break;
    have += static_cast<std::size_t>(n);
  }
  bytes.resize(have);
  return std::optional(std::move(bytes));
}

Result<void> write_whole(std::string_view what, const std::string& path, std::string_view bytes) {
  const UniqueFd file(::open(path.c_str(), O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0600));
  if (!file) return failed(what, path, "open");
  while (!bytes.empty()) {
    const ssize_t n = ::write(file.get(), bytes.data(), bytes.size());
    if (n < 0 && errno == EINTR) continue;
    if (n < 0) return failed(what, path, "write");
    bytes.remove_prefix(static_cast<std::size_t>(n));
  }
  if (::fsync(file.get()) != 0) return failed(what, path, "fsync");
  return {};
}

}  // namespace blockloom
