#include "server/leg/file_leg.hpp"

#include <cerrno>

#include <fcntl.h>
#include <fmt/format.h>
#include <linux/fs.h>
#include <sys/ioctl.h>
#include <sys/stat.h>

#include "server/leg/fd_leg.hpp"
#include "server/leg/uri.hpp"

namespace blockloom {
namespace {

std::string_view name_of_type(mode_t mode) {
  if (S_ISDIR(mode)) return "a directory";
  if (S_ISFIFO(mode)) return "a pipe";
  if (S_ISSOCK(mode)) return "a socket";
  if (S_ISCHR(mode)) return "a character device";
  return "of an unknown type";
}

Result<std::string> path_in(std::string_view uri) {
  constexpr std::string_view scheme = "file://";
  Result<std::string> path(std::string{uri});
  if (uri.starts_with(scheme)) path = percent_decode(uri.substr(scheme.size()));
  if (!path) return path;
  if (!path.value().starts_with('/'))
    return Error{Errc::invalid, "expected an absolute path: /path or file:///path"};
  if (path.value().find('\0') != std::string::npos)
    return Error{Errc::invalid, "expected a path without zero bytes"};
  return path;
}

Result<FdKind> kind_of(const struct stat& info) {
  if (S_ISREG(info.st_mode)) return FdKind::file;
  if (S_ISBLK(info.st_mode)) return FdKind::block_device;
  return Error{Errc::invalid, fmt::format("is {}: expected a regular file or a block device",
                                          name_of_type(info.st_mode))};
}

Result<Bytes> size_of(int fd, FdKind kind, const struct stat& info) {
  if (kind == FdKind::file) return Bytes(static_cast<std::uint64_t>(info.st_size));
  std::uint64_t size = 0;
  if (ioctl(fd, BLKGETSIZE64, &size) != 0) return system_error("reading its size", errno);
  return Bytes(size);
}

/// Without access times: nobody asks a disk when it was read last, and to keep them costs 5 % of a
/// cached read. Only the owner of a file may leave them out.
int open_quietly(const std::string& path, int flags) {
  const int fd = open(path.c_str(), flags | O_NOATIME);
  return fd < 0 && errno == EPERM ? open(path.c_str(), flags) : fd;
}

Result<std::shared_ptr<Leg>> open_path(std::string_view uri, bool read_only) {
  const auto path = path_in(uri);
  if (!path) return path.error();
  // Looked at first, because only opening a device can already have effects, and a pipe waits
  // for its other end. Once more after, because the name may lead elsewhere by then.
  struct stat info {};
  if (stat(path.value().c_str(), &info) != 0) return system_error("cannot be found", errno);
  if (auto kind = kind_of(info); !kind) return kind.error();
  const int no_wait = S_ISREG(info.st_mode) ? O_NONBLOCK : 0;
  const int fd =
      open_quietly(path.value(), (read_only ? O_RDONLY : O_RDWR) | O_CLOEXEC | O_NOCTTY | no_wait);
  if (fd < 0)
    return system_error(read_only ? "cannot be opened" : "cannot be opened for writing", errno);
  auto owner = own_fd(fd);
  if (fstat(fd, &info) != 0) return system_error("cannot be examined", errno);
  auto kind = kind_of(info);
  if (!kind) return kind.error();
  // Linux opens a read-only block device for writing, and fails the writes.
  int protected_by_kernel = 0;
  if (!read_only && *kind == FdKind::block_device &&
      ioctl(fd, BLKROGET, &protected_by_kernel) == 0 && protected_by_kernel != 0)
    return Error{Errc::read_only, "is a read-only block device: load this table read-only too"};
  auto size = size_of(fd, *kind, info);
  if (!size) return size.error();
  return std::shared_ptr<Leg>(
      std::make_shared<FdLeg>(std::string(uri), std::move(owner), *kind, *size, read_only));
}

}  // namespace

Result<std::shared_ptr<Leg>> open_file_leg(std::string_view uri, bool read_only) {
  auto leg = open_path(uri, read_only);
  if (leg) return leg;
  return Error{leg.code(), fmt::format("leg {}: {}", quoted(uri), leg.error().message)};
}

}  // namespace blockloom
