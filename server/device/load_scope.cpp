#include "server/device/load_scope.hpp"

#include <algorithm>

#include <fmt/format.h>

#include "server/device/device_leg.hpp"

namespace blockloom {

LoadScope::LoadScope(Registry& registry, std::shared_ptr<Device> device, const Change* change)
    : registry_(registry), device_(std::move(device)), change_(change) {
  std::lock_guard lock(registry_.mutex_);
  registry_.loading_.push_back(this);
  ++registry_.stacks_version_;
}

LoadScope::~LoadScope() {
  std::lock_guard lock(registry_.mutex_);
  std::erase(registry_.loading_, this);
  ++registry_.stacks_version_;
}

Result<std::shared_ptr<Leg>> LoadScope::open_device(std::string_view name, bool read_only) {
  std::shared_ptr<Device> lower;
  {
    std::lock_guard lock(registry_.mutex_);
    lower = find_locked(name);
    if (lower == nullptr && registry_.outside_ == nullptr)
      return Error{Errc::not_found,
                   fmt::format("leg 'dev:{}': there is no device {}", name, quoted(name))};
  }
  // Not under the mutex: it may open files.
  if (lower == nullptr) return registry_.outside_->open_device(name, read_only);
  {
    std::lock_guard lock(registry_.mutex_);
    if (const std::string why = lower->claim(); !why.empty())
      return Error{Errc::busy,
                   fmt::format("leg 'dev:{}': the device cannot be used: {}", name, why)};
    if (auto r = check_stack_locked(lower); !r) return r.error();
    if (!read_only && lower->read_only())
      return Error{Errc::read_only,
                   fmt::format("leg 'dev:{}': the device is read-only: load this table read-only "
                               "too",
                               name)};
    lower->opened();
    lower_.push_back(lower);
    known_version_ = ++registry_.stacks_version_;
  }
  Bytes size = lower->size();
  if (change_ != nullptr)
    if (const auto coming = change_->sizes.find(lower.get()); coming != change_->sizes.end())
      size = coming->second;
  return std::shared_ptr<Leg>(std::make_shared<DeviceLeg>(
      lower, size, registry_.retries_,
      [registry = &registry_](const std::shared_ptr<Device>& d) { registry->close(d); }));
}

std::shared_ptr<Device> LoadScope::find_locked(std::string_view name) const {
  if (change_ != nullptr)
    if (const auto created = change_->created.find(name); created != change_->created.end())
      return created->second;
  const auto found = registry_.devices_.find(name);
  return found != registry_.devices_.end() ? found->second : nullptr;
}

Result<void> LoadScope::check_stack_locked(const std::shared_ptr<Device>& lower) {
  // A table may have thousands of `dev:` legs: the graph is made again only when others build
  // tables meanwhile. What this one adds leads down from its own device, and changes nothing of
  // what stands above it.
  if (known_version_ != registry_.stacks_version_) {
    stacks_ = registry_.stacks_locked(change_);
    above_ = stacks_.above(device_.get());
    depth_ = stacks_.depth(device_.get());
    known_version_ = registry_.stacks_version_;
  }
  const std::string name = lower->name();
  if (above_.contains(lower.get()))
    return Error{Errc::loop, fmt::format("leg 'dev:{}': device '{}' would stand on itself", name,
                                         device_->name())};
  if (depth_ + 1 + stacks_.height(lower.get()) > StackGraph::deepest)
    return Error{Errc::limit, fmt::format("leg 'dev:{}': the stack would be more than {} devices "
                                          "high",
                                          name, StackGraph::deepest)};
  return {};
}

StackGraph Registry::stacks_locked(const Change* change) const {
  StackGraph stacks;
  for (const LoadScope* scope : loading_)
    for (const auto& lower : scope->lower())
      stacks.add(scope->device(), lower.get());
  for (const auto& [name, device] : devices_) {
    // A device that changes with this one will not have its present tables any more.
    if (change != nullptr && change->devices.contains(device.get())) continue;
    for (const std::string& lower_name : device->lower_devices())
      if (const auto lower = devices_.find(lower_name); lower != devices_.end())
        stacks.add(device.get(), lower->second.get());
  }
  return stacks;
}

}  // namespace blockloom
