#include <fmt/format.h>

#include "server/base/log.hpp"
#include "server/device/registry.hpp"
#include "server/device/state_store.hpp"
#include "server/device/transaction.hpp"
#include "server/leg/secrets.hpp"

namespace blockloom {
namespace {

/// What tells whether the configuration's word on a device changed: all of it that matters.
std::string signature_of(const DeviceSpec& spec) {
  return fmt::format("{}\n{}\n{}\n{}", spec.uuid, spec.description, spec.read_only ? "ro" : "rw",
                     spec.table);
}

DeviceSpec spec_of(const SavedDevice& saved) {
  return {saved.name, saved.uuid, saved.description, saved.table, saved.read_only};
}

std::string stays_removed(std::string_view name) {
  return fmt::format(
      "{} stays removed: it was removed at run time; change its text in the "
      "configuration to bring it back",
      name);
}

}  // namespace

// --- Saving -----------------------------------------------------------------------------------

SavedState Registry::snapshot() const {
  const RevealSecrets reveal;  // a table that is saved is loaded again
  SavedState state;
  for (const auto& device : list()) {
    if (device->deferred_remove()) continue;
    const DeviceInfo info = device->info();
    SavedDevice saved{info.name, info.uuid, info.description, {}, {}, info.read_only, false};
    if (const auto live = device->live_table()) {
      saved.table = live->table_text();
    } else {
      saved.table = device->saved_table();
      saved.read_only = device->saved_read_only();
    }
    if (const auto inactive = device->inactive_table()) {
      saved.inactive = inactive->table_text();
      saved.inactive_read_only = inactive->read_only();
    }
    saved.epoch = device->epoch();
    state.devices.push_back(std::move(saved));
  }
  std::lock_guard lock(mutex_);
  for (const auto& [name, configured] : configured_) {
    const auto device = present_locked(configured);
    state.configured.push_back(
        {name, configured.signature, device ? device->name() : std::string()});
  }
  return state;
}

std::shared_ptr<Device> Registry::present_locked(const Configured& configured) const {
  auto device = configured.device.lock();
  if (!device || device->deferred_remove()) return nullptr;
  const auto found = devices_.find(device->name());
  return found != devices_.end() && found->second == device ? device : nullptr;
}

Result<void> Registry::save(std::string_view done) {
  std::lock_guard lock(save_mutex_);
  if (!store_) return {};
  if (auto r = store_->save(snapshot()); !r)
    return Error{r.code(), fmt::format("{}, but a restart would not know of it: {}", done,
                                       r.error().message)};
  return {};
}

Result<void> Registry::store_epoch(Device& device, std::uint64_t epoch) {
  const std::string name = device.name();
  const std::uint64_t before = device.epoch();
  {
    const std::lock_guard lock(save_mutex_);
    if (!store_)
      return Error{Errc::not_supported,
                   fmt::format("device '{}': epoch {} cannot be kept over a restart: start the "
                               "server with a state directory",
                               name, epoch)};
  }
  if (epoch < before)
    return Error{Errc::invalid,
                 fmt::format("device '{}': epoch {} is over: it is at {}", name, epoch, before)};
  device.set_epoch(epoch);
  auto saved = save(fmt::format("device '{}' is at epoch {}", name, epoch));
  if (!saved) device.set_epoch(before);
  return saved;
}

// --- Starting ---------------------------------------------------------------------------------

void Registry::remember(const DeviceSpec& spec, const std::shared_ptr<Device>& device) {
  std::lock_guard lock(mutex_);
  configured_[spec.name] = {signature_of(spec), device};
}

Result<void> Registry::start(std::unique_ptr<StateStore> store,
                             const std::vector<DeviceSpec>& configured) {
  SavedState saved;
  if (store) {
    auto loaded = store->load();
    if (!loaded) return loaded.error();
    if (loaded.value()) saved = std::move(*loaded.value());
  }
  std::map<std::string, DeviceSpec> specs;  // by the name that the device will have
  std::map<std::string, const SavedDevice*> saved_devices;
  for (const SavedDevice& device : saved.devices) {
    saved_devices[device.name] = &device;
    specs[device.name] = spec_of(device);
  }
  std::map<std::string, const SavedConfigured*> known;
  for (const SavedConfigured& c : saved.configured)
    known[c.name] = &c;

  std::map<std::string, std::string> names;  // configured name -> name now
  for (const DeviceSpec& spec : configured) {
    const auto before = known.find(spec.name);
    if (before == known.end()) {
      specs[spec.name] = spec;
      names[spec.name] = spec.name;
      continue;
    }
    const SavedConfigured& old = *before->second;
    if (old.signature == signature_of(spec)) {
      names[spec.name] = old.device;  // the run-time change stands, a removal too
      const auto now = specs.find(old.device);
      if (now == specs.end())
        log_warning(stays_removed(spec.name));
      else if (normal_form(now->second.table) == normal_form(spec.table))
        now->second.origin = spec.origin;
    } else {
      if (!old.device.empty()) specs.erase(old.device);
      saved_devices.erase(old.device);
      specs[spec.name] = spec;
      names[spec.name] = spec.name;
    }
    known.erase(before);
  }
  // What the configuration names no longer goes with it.
  for (const auto& [name, old] : known)
    if (!old->device.empty()) specs.erase(old->device);

  std::vector<DeviceSpec> all;
  for (auto& [name, spec] : specs)
    all.push_back(spec);
  bring_up(all);
  for (const auto& [name, device] : saved_devices)
    if (specs.contains(name) && !device->inactive.empty())
      if (auto r = load(name, device->inactive, device->inactive_read_only); !r)
        log_warning(fmt::format("its inactive table was dropped: {}", r.error().message));
  // A device whose text changed in the configuration is still the one that was fenced.
  for (const SavedDevice& device : saved.devices)
    if (auto present = find(device.name)) present.value()->set_epoch(device.epoch);
  for (const DeviceSpec& spec : configured) {
    auto device = find(names[spec.name]);
    remember(spec, device ? device.value() : nullptr);
  }
  {
    std::lock_guard lock(save_mutex_);
    store_ = std::move(store);
  }
  return save("the devices are up");
}

void Registry::bring_up(const std::vector<DeviceSpec>& specs) {
  if (apply(specs)) return;
  // Something is missing: bring up what can be, from the bottom of each stack, and keep the rest
  // by name with the reason.
  std::vector<DeviceSpec> waiting = specs;
  std::map<std::string, Error> reasons;
  for (bool progress = true; progress && !waiting.empty();) {
    progress = false;
    std::vector<DeviceSpec> still;
    for (const DeviceSpec& spec : waiting) {
      auto r = spec.table.empty() ? create(spec) : Result<void>();
      if (!spec.table.empty())
        if (auto applied = apply({spec}); !applied) r = applied.error();
      if (r) {
        progress = true;
      } else {
        reasons[spec.name] = r.error();
        still.push_back(spec);
      }
    }
    waiting = std::move(still);
  }
  for (const DeviceSpec& spec : waiting) {
    const std::string& why = reasons[spec.name].message;
    DeviceSpec empty = spec;
    empty.table.clear();
    if (!create(empty)) {
      log_error(fmt::format("not served: {}", why));  // nothing is left that could say it
      continue;
    }
    if (auto device = find(spec.name)) {
      device.value()->set_failure(spec.table, spec.read_only, why);
      device.value()->raise("failed", why);
    }
  }
}

// --- The configuration, again -----------------------------------------------------------------

Result<ApplyReport> Registry::reconfigure(const std::vector<DeviceSpec>& configured) {
  std::vector<DeviceSpec> changed;
  std::map<std::string, std::string> renamed;  // name now -> configured name
  std::vector<std::string> gone, unchanged, notes;
  {
    std::lock_guard lock(mutex_);
    std::map<std::string_view, const DeviceSpec*> named;
    for (const DeviceSpec& spec : configured) {
      named[spec.name] = &spec;
      const auto before = configured_.find(spec.name);
      if (before != configured_.end() && before->second.signature == signature_of(spec)) {
        const auto device = present_locked(before->second);
        if (device)
          unchanged.push_back(device->name());
        else
          notes.push_back(stays_removed(spec.name));
        continue;
      }
      changed.push_back(spec);
      if (before != configured_.end())
        if (const auto device = before->second.device.lock();
            device && devices_.contains(device->name()))
          changed.back().name = device->name();
      renamed[changed.back().name] = spec.name;
    }
    for (const auto& [name, before] : configured_)
      if (!named.contains(name)) gone.push_back(name);
  }
  auto report = apply(changed);
  if (!report) return report;
  report->unchanged.insert(report->unchanged.end(), unchanged.begin(), unchanged.end());
  report->notes.insert(report->notes.end(), notes.begin(), notes.end());

  for (const DeviceSpec& spec : changed) {
    auto device = find(spec.name);
    DeviceSpec original = spec;
    original.name = renamed[spec.name];
    remember(original, device ? device.value() : nullptr);
  }
  for (const std::string& name : gone) {
    std::shared_ptr<Device> device;
    {
      std::lock_guard lock(mutex_);
      device = present_locked(configured_[name]);
      configured_.erase(name);
    }
    if (!device) continue;  // removed at run time already
    const std::string present = device->name();
    // One that a client still has goes with the last close.
    const auto removed = remove(present, {true, false});
    if (removed)
      report->removed.push_back(present);
    else if (removed.code() != Errc::not_found)
      return removed.error();
  }
  if (auto r = save("the configuration was read again"); !r) return r.error();
  return report;
}

}  // namespace blockloom
