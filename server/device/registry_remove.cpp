// How devices go: at once, once closed, or by force.
#include <algorithm>

#include <fmt/format.h>
#include <fmt/ranges.h>

#include "server/base/log.hpp"
#include "server/device/names.hpp"
#include "server/device/registry.hpp"
#include "server/device/state_store.hpp"

namespace blockloom {

Result<void> Registry::remove(std::string_view name, const RemoveOptions& options) {
  reap();
  auto found = find(name);
  if (!found) return found.error();
  const std::shared_ptr<Device> device = found.value();
  const auto users = users_of(*device);
  bool deferred = false;
  {
    std::lock_guard lock(mutex_);
    const auto present = devices_.find(name);
    if (present == devices_.end() || present->second != device)
      return Error{Errc::not_found, fmt::format("there is no device {}", quoted(name))};
    const auto count = device->open_count();
    if (count > 0 && !options.force) {
      if (!options.deferred)
        return Error{
            Errc::busy,
            fmt::format("device '{}' is open {} time{}{}: close it, or remove it with "
                        "--deferred or --force",
                        name, count, count == 1 ? "" : "s",
                        users.empty() ? "" : fmt::format(" (by {})", fmt::join(users, ", ")))};
      device->set_deferred_remove(true);
      deferred = true;
    } else {
      devices_.erase(present);
    }
  }
  if (deferred) {
    // The last close may have come before the mark.
    if (device->open_count() == 0) remove_when_closed(device);
    return save(fmt::format("device '{}' will be removed when it is closed", name));
  }
  end_device(device, Errc::removed, std::chrono::seconds(2));
  device->raise("removed", options.force ? "by force" : "");
  return save(fmt::format("device '{}' was removed", name));
}

void Registry::remove_when_closed(const std::shared_ptr<Device>& device) {
  const std::string name = device->name();
  {
    std::lock_guard lock(mutex_);
    const auto present = devices_.find(name);
    if (present == devices_.end() || present->second != device) return;
    if (device->open_count() != 0 || !device->deferred_remove()) return;
    devices_.erase(present);
  }
  end_device(device, Errc::removed, std::chrono::seconds(2));
  device->raise("removed", "deferred");
  if (auto r = save(fmt::format("device '{}' was removed", name)); !r) log_error(r.error().message);
}

void Registry::end_device(const std::shared_ptr<Device>& device, Errc status, Duration wait) {
  if (device->kill(status, wait)) {
    device->drop_tables();
    return;
  }
  std::lock_guard lock(mutex_);
  ended_.push_back(device);
}

void Registry::reap() {
  std::vector<std::shared_ptr<Device>> idle;
  {
    std::lock_guard lock(mutex_);
    std::erase_if(ended_, [&](const auto& device) {
      if (!device->idle()) return false;
      idle.push_back(device);  // destroyed outside the lock
      return true;
    });
  }
  for (const auto& device : idle)
    device->drop_tables();
}

}  // namespace blockloom
