#include "server/device/state_store.hpp"

#include <cerrno>

#include <fcntl.h>
#include <fmt/format.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

#include "server/base/log.hpp"
#include "server/base/whole_file.hpp"

namespace blockloom {
namespace {

constexpr const char* slots[] = {"devices.0", "devices.1"};
constexpr const char* unfinished = "devices.new";
constexpr std::size_t largest_state = 1 << 30;
constexpr std::string_view what = "state file";

Error failed(std::string_view step, const std::string& path) {
  return system_error(fmt::format("state file '{}': {}", path, step), errno);
}

}  // namespace

StateStore::StateStore(std::string folder, int folder_fd, int lock_fd)
    : folder_(std::move(folder)), folder_fd_(folder_fd), lock_fd_(lock_fd) {}

StateStore::~StateStore() {
  ::close(lock_fd_);
  ::close(folder_fd_);
}

Result<std::unique_ptr<StateStore>> StateStore::open(std::string folder) {
  if (::mkdir(folder.c_str(), 0700) != 0 && errno != EEXIST)
    return system_error(fmt::format("state folder '{}'", folder), errno);
  const int folder_fd = ::open(folder.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC);
  if (folder_fd < 0) return system_error(fmt::format("state folder '{}'", folder), errno);
  const std::string lock = folder + "/lock";
  const int lock_fd = ::open(lock.c_str(), O_RDWR | O_CREAT | O_CLOEXEC, 0600);
  if (lock_fd < 0 || ::flock(lock_fd, LOCK_EX | LOCK_NB) != 0) {
    const int reason = errno;
    if (lock_fd >= 0) ::close(lock_fd);
    ::close(folder_fd);
    if (reason == EWOULDBLOCK)
      return Error{Errc::busy, fmt::format("state folder '{}' is in use by another server: give "
                                           "each server a folder of its own",
                                           folder)};
    return system_error(fmt::format("state folder '{}': lock", folder), reason);
  }
  return std::unique_ptr<StateStore>(new StateStore(std::move(folder), folder_fd, lock_fd));
}

Result<std::optional<SavedState>> StateStore::load() {
  std::optional<SavedState> newest;
  std::string damage;
  for (int slot = 0; slot < 2; ++slot) {
    auto bytes = read_whole(what, path(slots[slot]), largest_state);
    if (!bytes) return bytes.error();
    if (!bytes.value()) continue;
    auto decoded = decode_state(*bytes.value());
    if (!decoded) {
      damage = fmt::format("{}: {}", path(slots[slot]), decoded.error().message);
      log_warning(damage);
      continue;
    }
    auto& [generation, state] = decoded.value();
    if (newest && generation < generation_) continue;
    generation_ = generation;
    newest_slot_ = slot;
    newest = std::move(state);
  }
  if (!newest && !damage.empty())
    return Error{Errc::corrupt, fmt::format("{}; there is no older state: move the folder away to "
                                            "start without the saved devices",
                                            damage)};
  return newest;
}

Result<void> StateStore::save(const SavedState& state) {
  const int slot = 1 - newest_slot_;
  const std::string temporary = path(unfinished);
  const std::string final_path = path(slots[slot]);
  if (auto r = write_whole(what, temporary, encode_state(state, generation_ + 1)); !r) return r;
  if (::rename(temporary.c_str(), final_path.c_str()) != 0) return failed("rename", final_path);
  // From here on the new file may be what a restart finds, whatever fsync says.
  ++generation_;
  newest_slot_ = slot;
  if (::fsync(folder_fd_) != 0) return failed("fsync of its folder", final_path);
  return {};
}

}  // namespace blockloom
