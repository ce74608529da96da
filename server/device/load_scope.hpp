#pragma once

#include <map>
#include <memory>
#include <set>
#include <string>
#include <vector>

#include "server/device/registry.hpp"

namespace blockloom {

/// Devices that change together: what their tables will be, for stacks among them.
struct Change {
  std::map<std::string, std::shared_ptr<Device>, std::less<>> created;  ///< not registered yet
  std::set<const Device*> devices;       ///< whose present tables will be gone
  std::map<const Device*, Bytes> sizes;  ///< of the tables to come
};

/// While one table is built: resolves its `dev:` legs, and refuses those that would close a loop
/// over live tables, inactive ones, and those that others are building at this moment. It lives
/// until its table stands where the next search for loops sees it.
class LoadScope final : public DeviceResolver {
 public:
  /// `change` may be null; if not, it outlives the scope.
  LoadScope(Registry& registry, std::shared_ptr<Device> device, const Change* change);
  ~LoadScope() override;

  Result<std::shared_ptr<Leg>> open_device(std::string_view name, bool read_only) override;

  const Device* device() const noexcept { return device_.get(); }
  /// What the table under construction stands on so far; under the registry's mutex.
  const std::vector<std::shared_ptr<Device>>& lower() const noexcept { return lower_; }

 private:
  std::shared_ptr<Device> find_locked(std::string_view name) const;

  Registry& registry_;
  const std::shared_ptr<Device> device_;
  const Change* const change_;
  Result<void> check_stack_locked(const std::shared_ptr<Device>& lower);

  // Under the registry's mutex.
  std::vector<std::shared_ptr<Device>> lower_;
  std::uint64_t known_version_ = 0;  // of the registry's stacks, when these were made
  StackGraph stacks_;
  std::set<const Device*> above_;
  int depth_ = 0;
};

}  // namespace blockloom
