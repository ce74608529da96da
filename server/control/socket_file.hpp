#pragma once

#include <memory>
#include <string>

#include <sys/types.h>

#include "server/base/error.hpp"

namespace blockloom::control {

/// A listening Unix socket in the file system: mode 0600 from its first instant, whatever the
/// umask. A lock file beside it ("PATH.lock") keeps two servers from taking it from each other.
/// The destructor removes the socket if it is still this one.
class SocketFile {
 public:
  /// Replaces a socket that nobody listens on. Errc::busy if somebody does.
  static Result<std::unique_ptr<SocketFile>> create(const std::string& path);
  ~SocketFile();
  SocketFile(const SocketFile&) = delete;
  SocketFile& operator=(const SocketFile&) = delete;

  /// The descriptor, given away once: its new owner closes it.
  int release() noexcept;

 private:
  SocketFile(std::string path, int lock) : path_(std::move(path)), lock_(lock) {}
  Result<void> bind();

  const std::string path_;
  const int lock_;
  int fd_ = -1;
  dev_t device_ = 0;
  ino_t inode_ = 0;
};

}  // namespace blockloom::control
