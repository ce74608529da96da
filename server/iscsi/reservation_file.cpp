#include "server/iscsi/reservation_file.hpp"

#include <cerrno>
#include <charconv>
#include <string_view>

#include <fcntl.h>
#include <fmt/format.h>
#include <isa-l/crc.h>
#include <sys/stat.h>
#include <unistd.h>

namespace blockloom {
namespace {

constexpr off_t largest_file = 1 << 20;

/// A descriptor that closes itself.
struct File {
  int fd;
  explicit File(int f) : fd(f) {}
  File(const File&) = delete;
  File& operator=(const File&) = delete;
  ~File() {
    if (fd >= 0) ::close(fd);
  }
};

Error failed(std::string_view what, const std::string& path) {
  return system_error(fmt::format("reservations '{}': {}", path, what), errno);
}

std::uint32_t checksum(std::string_view text) {
  auto* bytes = reinterpret_cast<unsigned char*>(const_cast<char*>(text.data()));
  return ~crc32_iscsi(bytes, static_cast<int>(text.size()), ~0u);
}

Result<void> write_whole(const std::string& path, std::string_view bytes) {
  const File file(::open(path.c_str(), O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0600));
  if (file.fd < 0) return failed("open", path);
  while (!bytes.empty()) {
    const ssize_t n = ::write(file.fd, bytes.data(), bytes.size());
    if (n < 0 && errno == EINTR) continue;
    if (n < 0) return failed("write", path);
    bytes.remove_prefix(static_cast<std::size_t>(n));
  }
  if (::fsync(file.fd) != 0) return failed("fsync", path);
  return {};
}

Result<void> sync_folder(const std::string& folder) {
  const File file(::open(folder.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC));
  if (file.fd < 0 || ::fsync(file.fd) != 0) return failed("fsync", folder);
  return {};
}

/// What follows "CRC32C HEX\n", if that is right.
Result<std::string_view> checked(std::string_view bytes, const std::string& path) {
  const Error damaged{Errc::corrupt,
                      fmt::format("reservations '{}' are damaged: remove the file to start "
                                  "without them",
                                  path)};
  std::uint32_t sum = 0;
  if (bytes.size() < 16 || !bytes.starts_with("CRC32C ") || bytes[15] != '\n') return damaged;
  const auto [end, error] = std::from_chars(bytes.data() + 7, bytes.data() + 15, sum, 16);
  if (error != std::errc() || end != bytes.data() + 15) return damaged;
  bytes.remove_prefix(16);
  if (checksum(bytes) != sum) return damaged;
  return bytes;
}

}  // namespace

Result<Reservations> read_reservations(const std::string& folder, const std::string& name) {
  const std::string path = folder + "/" + name;
  const File file(::open(path.c_str(), O_RDONLY | O_CLOEXEC));
  if (file.fd < 0 && errno == ENOENT) return Reservations();
  struct stat info {};
  if (file.fd < 0 || ::fstat(file.fd, &info) != 0) return failed("open", path);
  if (info.st_size > largest_file)
    return Error{Errc::corrupt, fmt::format("reservations '{}' are larger than 1 MiB", path)};
  std::string bytes(static_cast<std::size_t>(info.st_size), '\0');
  std::size_t have = 0;
  while (have < bytes.size()) {
    const ssize_t n = ::read(file.fd, bytes.data() + have, bytes.size() - have);
    if (n < 0 && errno == EINTR) continue;
    if (n < 0) return failed("read", path);
    if (n == 0) break;
    have += static_cast<std::size_t>(n);
  }
  bytes.resize(have);
  auto text = checked(bytes, path);
  if (!text) return text.error();
  auto loaded = Reservations::load(*text);
  if (!loaded) return Error{Errc::corrupt, fmt::format("'{}': {}", path, loaded.error().message)};
  return loaded;
}

Result<void> write_reservations(const std::string& folder, const std::string& name,
                                const Reservations& reservations) {
  const std::string path = folder + "/" + name;
  if (!reservations.aptpl() || reservations.empty()) {
    if (::unlink(path.c_str()) == 0) return sync_folder(folder);
    if (errno != ENOENT) return failed("unlink", path);
    return {};
  }
  if (::mkdir(folder.c_str(), 0700) != 0 && errno != EEXIST) return failed("mkdir", folder);
  const std::string text = reservations.save();
  const std::string whole = fmt::format("CRC32C {:08x}\n{}", checksum(text), text);
  const std::string temporary = path + ".new";
  if (auto r = write_whole(temporary, whole); !r) return r;
  if (::rename(temporary.c_str(), path.c_str()) != 0) return failed("rename", path);
  return sync_folder(folder);
}

}  // namespace blockloom
