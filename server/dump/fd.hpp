#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <string>
#include <string_view>

#include "server/base/error.hpp"
#include "server/base/unique_fd.hpp"

namespace blockloom::dump {

/// All of it, at this offset. A file system that takes nothing more is Errc::no_space.
Result<void> write_all(int fd, std::string_view bytes, std::uint64_t offset);
/// Short only at the end of the file.
Result<std::size_t> read_at(int fd, std::uint64_t offset, std::span<std::byte> into);
/// From the start, at most `most` bytes.
Result<std::string> read_up_to(int fd, std::size_t most);

}  // namespace blockloom::dump
