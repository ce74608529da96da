#include "server/iscsi/reservation_file.hpp"

#include <cerrno>
#include <string_view>

#include <fcntl.h>
#include <fmt/format.h>
#include <isa-l/crc.h>
#include <sys/stat.h>
#include <unistd.h>

#include "proto/text/number.hpp"
#include "server/base/unique_fd.hpp"
#include "server/base/whole_file.hpp"

namespace blockloom {
namespace {

constexpr std::size_t largest_file = 1 << 20;
constexpr std::string_view what = "reservations";

Error failed(std::string_view step, const std::string& path) {
  return system_error(fmt::format("reservations '{}': {}", path, step), errno);
}

std::uint32_t checksum(std::string_view text) {
  auto* bytes = reinterpret_cast<unsigned char*>(const_cast<char*>(text.data()));
  return ~crc32_iscsi(bytes, static_cast<int>(text.size()), ~0u);
}

Result<void> sync_folder(const std::string& folder) {
  const UniqueFd file(::open(folder.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC));
  if (!file || ::fsync(file.get()) != 0) return failed("fsync", folder);
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
  if (!parse_whole(bytes.substr(7, 8), sum, 16)) return damaged;
  bytes.remove_prefix(16);
  if (checksum(bytes) != sum) return damaged;
  return bytes;
}

}  // namespace

Result<Reservations> read_reservations(const std::string& folder, const std::string& name) {
  const std::string path = folder + "/" + name;
  auto bytes = read_whole(what, path, largest_file);
  if (!bytes) return bytes.error();
  if (!*bytes) return Reservations();
  auto text = checked(**bytes, path);
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
  if (auto r = write_whole(what, temporary, whole); !r) return r;
  if (::rename(temporary.c_str(), path.c_str()) != 0) return failed("rename", path);
  return sync_folder(folder);
}

}  // namespace blockloom
