#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <string>
#include <string_view>

#include "server/base/error.hpp"

namespace blockloom::dump {

/// A file descriptor that is closed with its owner.
class Fd {
 public:
  explicit Fd(int fd = -1) noexcept : fd_(fd) {}
  Fd(Fd&& other) noexcept : fd_(other.release()) {}
  Fd& operator=(Fd&& other) noexcept;
  ~Fd();

  int get() const noexcept { return fd_; }
  explicit operator bool() const noexcept { return fd_ >= 0; }
  int release() noexcept {
    const int fd = fd_;
    fd_ = -1;
    return fd;
  }

 private:
  int fd_;
};

/// All of it, at this offset. A file system that takes nothing more is Errc::no_space.
Result<void> write_all(int fd, std::string_view bytes, std::uint64_t offset);
/// Short only at the end of the file.
Result<std::size_t> read_at(int fd, std::uint64_t offset, std::span<std::byte> into);
/// From the start, at most `most` bytes.
Result<std::string> read_up_to(int fd, std::size_t most);

}  // namespace blockloom::dump
