#include "server/device/registry.hpp"

#include <algorithm>

#include <fmt/format.h>
#include <fmt/ranges.h>

#include "server/base/log.hpp"
#include "server/device/load_scope.hpp"
#include "server/device/names.hpp"
#include "server/device/state_store.hpp"

namespace blockloom {

// --- Handles ----------------------------------------------------------------------------------

DeviceHandle::DeviceHandle(Registry* registry, std::shared_ptr<Device> device, bool claimed)
    : registry_(registry), device_(std::move(device)), claimed_(claimed) {}

DeviceHandle::DeviceHandle(DeviceHandle&& other) noexcept
    : registry_(other.registry_), device_(std::move(other.device_)), claimed_(other.claimed_) {}

DeviceHandle& DeviceHandle::operator=(DeviceHandle&& other) noexcept {
  if (this == &other) return *this;
  close();
  registry_ = other.registry_;
  device_ = std::move(other.device_);
  claimed_ = other.claimed_;
  return *this;
}

DeviceHandle::~DeviceHandle() {
  close();
}

void DeviceHandle::close() noexcept {
  if (!device_) return;
  if (claimed_) device_->set_claim({});
  registry_->close(device_);
}

// --- Life -------------------------------------------------------------------------------------

Registry::Registry(DeviceLimits limits) : limits_(limits) {}

Registry::~Registry() {
  shut_down();
  // Tables go before what their legs need. A stack's lower device stays while an upper has it.
  for (const auto& device : list()) {
    if (device->idle()) {
      device->drop_tables();
    } else {
      // A request is stuck in a leg for good: its table must outlive it, so it is given away.
      new std::shared_ptr<Device>(device);
    }
  }
  reap();
  for (const auto& device : ended_)
    new std::shared_ptr<Device>(device);
}

void Registry::shut_down(Duration wait) {
  std::vector<std::shared_ptr<Device>> all;
  {
    std::lock_guard lock(mutex_);
    if (std::exchange(shut_down_, true)) return;
    for (const auto& [name, device] : devices_)
      all.push_back(device);
    all.insert(all.end(), ended_.begin(), ended_.end());
  }
  // First refuse everywhere, so that a stack's upper device does not wait for its lower one.
  for (const auto& device : all)
    device->kill(Errc::shutdown, Duration::zero());
  const TimePoint deadline = Clock::now() + wait;
  for (const auto& device : all)
    if (!device->kill(Errc::shutdown, std::max(deadline - Clock::now(), Duration::zero())))
      log_warning(fmt::format("device '{}' still has requests out at the end", device->name()));
  timers_.stop();
  worker_.stop();
  retries_.stop();
}

// --- Finding ----------------------------------------------------------------------------------

Result<std::shared_ptr<Device>> Registry::find(std::string_view name) const {
  std::lock_guard lock(mutex_);
  const auto found = devices_.find(name);
  if (found == devices_.end())
    return Error{Errc::not_found, fmt::format("there is no device {}", quoted(name))};
  return found->second;
}

Result<std::shared_ptr<Device>> Registry::find_uuid(std::string_view uuid) const {
  for (const auto& device : list())
    if (!uuid.empty() && device->uuid() == uuid) return device;
  return Error{Errc::not_found, fmt::format("there is no device with uuid {}", quoted(uuid))};
}

std::vector<std::shared_ptr<Device>> Registry::list() const {
  std::lock_guard lock(mutex_);
  std::vector<std::shared_ptr<Device>> all;
  all.reserve(devices_.size());
  for (const auto& [name, device] : devices_)
    all.push_back(device);
  return all;
}

std::vector<std::string> Registry::users_of(const Device& device) const {
  std::vector<std::string> users;
  const std::string name = device.name();
  for (const auto& other : list()) {
    const auto lower = other->lower_devices();
    if (std::find(lower.begin(), lower.end(), name) != lower.end())
      users.push_back(fmt::format("device '{}'", other->name()));
  }
  return users;
}

Result<DeviceHandle> Registry::open(std::string_view name) {
  reap();
  std::lock_guard lock(mutex_);
  const auto found = devices_.find(name);
  if (found == devices_.end())
    return Error{Errc::not_found, fmt::format("there is no device {}", quoted(name))};
  if (const std::string why = found->second->claim(); !why.empty())
    return Error{Errc::busy, fmt::format("device '{}' cannot be opened: {}", name, why)};
  found->second->opened();
  return DeviceHandle(this, found->second);
}

Result<DeviceHandle> Registry::claim(std::string_view name, std::string why) {
  reap();
  std::lock_guard lock(mutex_);
  const auto found = devices_.find(name);
  if (found == devices_.end())
    return Error{Errc::not_found, fmt::format("there is no device {}", quoted(name))};
  Device& device = *found->second;
  if (device.open_count() > 0)
    return Error{Errc::busy,
                 fmt::format("device '{}' is open: it is wanted alone, for {}", name, why)};
  device.opened();
  device.set_claim(std::move(why));
  return DeviceHandle(this, found->second, true);
}

void Registry::close(const std::shared_ptr<Device>& device) {
  if (device->closed() != 0 || !device->deferred_remove()) return;
  // The last close may come from anywhere, also under a lock of the device above.
  worker_.schedule(Clock::now(), [this, device](Errc status) {
    if (status == Errc::ok) remove_when_closed(device);
  });
}

// --- Creating and loading ---------------------------------------------------------------------

std::shared_ptr<Device> Registry::make_device(const DeviceSpec& spec) {
  Device::Services services;
  services.timers = &timers_;
  services.worker = &worker_;
  services.notify = [this](Device& d, std::string_view kind, std::string detail) {
    events_.publish({0, 0, d.name(), d.event_number(), std::string(kind), std::move(detail)});
  };
  std::uint32_t minor = 0;
  {
    std::lock_guard lock(mutex_);
    minor = next_minor_++;
  }
  auto device = std::make_shared<Device>(spec.name, spec.uuid, minor, limits_, services);
  device->set_description(spec.description);
  return device;
}

Result<void> Registry::check_new_locked(const DeviceSpec& spec) const {
  if (shut_down_) return Error{Errc::shutdown, "the server is stopping"};
  if (devices_.contains(spec.name))
    return Error{Errc::exists, fmt::format("device '{}' exists already", spec.name)};
  return check_uuid_locked(spec.uuid, nullptr);
}

Result<void> Registry::check_uuid(std::string_view uuid, const Device* owner) const {
  std::lock_guard lock(mutex_);
  return check_uuid_locked(uuid, owner);
}

Result<void> Registry::check_uuid_locked(std::string_view uuid, const Device* owner) const {
  if (uuid.empty()) return {};
  for (const auto& [name, device] : devices_)
    if (device.get() != owner && device->uuid() == uuid)
      return Error{Errc::exists,
                   fmt::format("uuid '{}' belongs to device '{}' already", uuid, name)};
  return {};
}

Result<std::shared_ptr<Table>> Registry::build_table(const std::shared_ptr<Device>& device,
                                                     std::string_view text, bool read_only) {
  if (auto r = check_table_text(text); !r) return r.error();
  LoadScope scope(*this, device, nullptr);
  LegContext context{&scope, &memories_};
  auto table = Table::create(text, read_only, context);
  if (!table)
    return Error{table.code(),
                 fmt::format("device '{}': {}", device->name(), table.error().message)};
  // Set while the scope still stands, so that no loop closes in between.
  std::shared_ptr<Table> shared = std::move(table.value());
  device->set_inactive(shared);
  return shared;
}

Result<void> Registry::create(const DeviceSpec& spec) {
  if (!spec.table.empty()) {
    if (find(spec.name))
      return Error{Errc::exists, fmt::format("device '{}' exists already", spec.name)};
    auto applied = apply({spec});
    return applied ? Result<void>() : applied.error();
  }
  if (auto r = check_device_name(spec.name); !r) return r;
  if (!spec.uuid.empty())
    if (auto r = check_device_uuid(spec.uuid); !r) return r;
  const auto device = make_device(spec);
  {
    std::lock_guard lock(mutex_);
    if (auto r = check_new_locked(spec); !r) return r;
    devices_.emplace(spec.name, device);
  }
  device->raise("created", {});
  return save(fmt::format("device '{}' was created", spec.name));
}

Result<void> Registry::load(std::string_view name, std::string_view table, bool read_only) {
  auto device = find(name);
  if (!device) return device.error();
  if (auto built = build_table(device.value(), table, read_only); !built) return built.error();
  device.value()->raise("loaded", {});
  return save(fmt::format("device '{}' was loaded", name));
}

Result<void> Registry::clear(std::string_view name) {
  auto device = find(name);
  if (!device) return device.error();
  device.value()->clear();
  device.value()->raise("cleared", {});
  return save(fmt::format("device '{}' was cleared", name));
}

Result<void> Registry::suspend(std::string_view name, const SuspendOptions& options) {
  auto device = find(name);
  if (!device) return device.error();
  if (auto r = device.value()->suspend(options); !r) return r;
  device.value()->raise("suspended", {});
  return {};
}

Result<PauseReport> Registry::resume(std::string_view name, const SuspendOptions& options) {
  auto found = find(name);
  if (!found) return found.error();
  const auto& device = found.value();
  if (auto r = restore_failed(device); !r) return r.error();
  const Bytes old_size = device->size();
  auto report = device->resume(options);
  if (!report) {
    device->raise("failed", report.error().message);
    return report;
  }
  if (!report->swapped) {
    if (report->pause > Duration::zero()) device->raise("resumed", {});
    return report;
  }
  announce_swap(*device, old_size);
  if (auto r = save(fmt::format("device '{}' has its new table", name)); !r) return r.error();
  return report;
}

Result<void> Registry::restore_failed(const std::shared_ptr<Device>& device) {
  const std::string saved = device->saved_table();
  if (saved.empty() || device->live_table() || device->inactive_table()) return {};
  auto built = build_table(device, saved, device->saved_read_only());
  return built ? Result<void>() : built.error();
}

void Registry::announce_swap(Device& device, Bytes old_size) {
  device.set_failure({}, false, {});
  device.raise("swapped", {});
  if (device.size() != old_size)
    device.raise("resized", fmt::format("{} -> {} sectors", to_sectors(old_size).value,
                                        to_sectors(device.size()).value));
}

// --- Names and messages -----------------------------------------------------------------------

Result<void> Registry::rename(std::string_view name, std::string_view new_name) {
  if (auto r = check_device_name(new_name); !r) return r;
  std::shared_ptr<Device> device;
  {
    std::lock_guard lock(mutex_);
    const auto found = devices_.find(name);
    if (found == devices_.end())
      return Error{Errc::not_found, fmt::format("there is no device {}", quoted(name))};
    if (devices_.contains(new_name))
      return Error{Errc::exists, fmt::format("device '{}' exists already", new_name)};
    device = found->second;
    devices_.erase(found);
    device->set_name(std::string(new_name));
    devices_.emplace(std::string(new_name), device);
  }
  device->raise("renamed", fmt::format("from '{}'", name));
  return save(fmt::format("device '{}' is now '{}'", name, new_name));
}

Result<void> Registry::set_uuid(std::string_view name, std::string_view uuid) {
  if (auto r = check_device_uuid(uuid); !r) return r;
  {
    std::lock_guard lock(mutex_);
    const auto found = devices_.find(name);
    if (found == devices_.end())
      return Error{Errc::not_found, fmt::format("there is no device {}", quoted(name))};
    if (auto r = check_uuid_locked(uuid, found->second.get()); !r) return r;
    if (auto r = found->second->set_uuid(std::string(uuid)); !r) return r;
  }
  return save(fmt::format("device '{}' has its uuid", name));
}

Result<std::string> Registry::message(std::string_view name, Sectors sector,
                                      std::span<const std::string> words) {
  auto device = find(name);
  if (!device) return device.error();
  auto answer = device.value()->message(sector, words);
  if (answer) device.value()->raise("message", fmt::format("{}", fmt::join(words, " ")));
  return answer;
}

}  // namespace blockloom
