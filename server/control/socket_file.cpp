#include "server/control/socket_file.hpp"

#include <cerrno>
#include <cstring>

#include <fcntl.h>
#include <fmt/format.h>
#include <sys/file.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

namespace blockloom::control {
namespace {

Error failed(const std::string& path, std::string_view what) {
  return system_error(fmt::format("control socket '{}': {}", path, what), errno);
}

Error taken(const std::string& path) {
  return {Errc::busy, fmt::format("control socket '{}': another server listens there", path)};
}

int new_socket() {
  return ::socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
}

/// Whether a server answers at the address. A full backlog answers too.
bool somebody_listens(const sockaddr_un& address) {
  const int fd = new_socket();
  if (fd < 0) return true;  // unknown: then it is not ours to remove
  const bool refused =
      ::connect(fd, reinterpret_cast<const sockaddr*>(&address), sizeof address) != 0 &&
      errno == ECONNREFUSED;
  ::close(fd);
  return !refused;
}

}  // namespace

Result<std::unique_ptr<SocketFile>> SocketFile::create(const std::string& path) {
  if (path.empty() || path.front() != '/')
    return Error{Errc::invalid,
                 fmt::format("control socket '{}': the path must be absolute", path)};
  if (path.size() >= sizeof(sockaddr_un::sun_path))
    return Error{
        Errc::invalid,
        fmt::format("control socket '{}': the path has {} bytes; a socket's has at most {}", path,
                    path.size(), sizeof(sockaddr_un::sun_path) - 1)};
  const std::string lock_path = path + ".lock";
  const int lock = ::open(lock_path.c_str(), O_RDWR | O_CREAT | O_CLOEXEC | O_NOFOLLOW, 0600);
  if (lock < 0) return failed(path, "cannot make its lock file");
  std::unique_ptr<SocketFile> file(new SocketFile(path, lock));
  if (::flock(lock, LOCK_EX | LOCK_NB) != 0) return taken(path);
  if (const auto bound = file->bind(); !bound) return bound.error();
  return file;
}

Result<void> SocketFile::bind() {
  sockaddr_un address{};
  address.sun_family = AF_UNIX;
  std::memcpy(address.sun_path, path_.c_str(), path_.size() + 1);

  fd_ = new_socket();
  if (fd_ < 0) return failed(path_, "cannot make a socket");
  // Linux gives the file the mode of the socket, less the umask: no instant with more than this.
  if (::fchmod(fd_, 0600) != 0) return failed(path_, "cannot set its mode");
  const auto* where = reinterpret_cast<const sockaddr*>(&address);
  if (::bind(fd_, where, sizeof address) != 0) {
    if (errno != EADDRINUSE) return failed(path_, "cannot bind");
    struct stat there {};
    if (::lstat(path_.c_str(), &there) == 0 && !S_ISSOCK(there.st_mode))
      return Error{Errc::exists,
                   fmt::format("control socket '{}': there is a file that is not a socket", path_)};
    if (somebody_listens(address)) return taken(path_);
    if (::unlink(path_.c_str()) != 0) return failed(path_, "cannot remove the stale socket");
    if (::bind(fd_, where, sizeof address) != 0) return failed(path_, "cannot bind");
  }
  struct stat made {};
  if (::chmod(path_.c_str(), 0600) != 0 || ::lstat(path_.c_str(), &made) != 0)
    return failed(path_, "cannot set its mode");
  device_ = made.st_dev;
  inode_ = made.st_ino;
  if (::listen(fd_, SOMAXCONN) != 0) return failed(path_, "cannot listen");
  return {};
}

SocketFile::~SocketFile() {
  struct stat there {};
  if (inode_ != 0 && ::lstat(path_.c_str(), &there) == 0 && there.st_dev == device_ &&
      there.st_ino == inode_)
    ::unlink(path_.c_str());
  if (fd_ >= 0) ::close(fd_);
  ::close(lock_);  // and with it the lock; the file stays, for removing it would race
}

int SocketFile::release() noexcept {
  const int fd = fd_;
  fd_ = -1;
  return fd;
}

}  // namespace blockloom::control
