#include "server/device/transaction.hpp"

#include <algorithm>
#include <set>

#include <fmt/format.h>

#include "server/base/log.hpp"
#include "server/device/names.hpp"

namespace blockloom {
namespace {

/// The devices that a table's text leads to. Lines that do not parse lead nowhere: building the
/// table says what is wrong with them.
std::vector<std::string> lower_names(const std::string& text) {
  std::vector<std::string> names;
  const auto lines = parse_table(text);
  if (!lines) return names;
  for (const TableLine& line : lines.value())
    for (const std::string& word : line.words)
      if (auto name = device_in_uri(word); !name.empty()) names.push_back(std::move(name));
  return names;
}

}  // namespace

std::string normal_form(const std::string& text) {
  const auto lines = parse_table(text);
  if (!lines) return text;
  std::string normal;
  for (const TableLine& line : lines.value()) {
    normal += fmt::format("{} {} {}", line.start.value, line.length.value, line.type);
    for (const std::string& word : line.words)
      normal += ' ' + escape_word(word);
    normal += '\n';
  }
  return normal;
}

// --- Planning ---------------------------------------------------------------------------------

Result<void> Registry::Transaction::plan() {
  std::set<std::string_view> names, uuids;
  for (const DeviceSpec& spec : specs_) {
    if (!names.insert(spec.name).second)
      return placed(spec,
                    {Errc::invalid, fmt::format("device '{}' is described twice", spec.name)});
    if (!spec.uuid.empty() && !uuids.insert(spec.uuid).second)
      return placed(spec,
                    {Errc::exists, fmt::format("uuid '{}' is given to two devices", spec.uuid)});
    if (auto r = plan_one(spec); !r) return placed(spec, r.error());
  }
  return sort_bottom_up();
}

Error Registry::Transaction::placed(const DeviceSpec& spec, const Error& error) {
  if (spec.origin.empty()) return error;
  return {error.code, fmt::format("{}: {}", spec.origin, error.message)};
}

Result<void> Registry::Transaction::plan_one(const DeviceSpec& spec) {
  if (auto r = check_device_name(spec.name); !r) return r;
  if (!spec.uuid.empty())
    if (auto r = check_device_uuid(spec.uuid); !r) return r;
  Part part;
  part.spec = &spec;
  if (auto found = registry_.find(spec.name)) {
    part.device = std::move(found.value());
    named_.push_back(part.device);
    const std::string uuid = part.device->uuid();
    if (!spec.uuid.empty() && !uuid.empty() && spec.uuid != uuid)
      return Error{Errc::exists, fmt::format("device '{}' has uuid '{}', and a uuid is set once: "
                                             "'{}' cannot replace it",
                                             spec.name, uuid, spec.uuid)};
    if (auto r = registry_.check_uuid(spec.uuid, part.device.get()); !r) return r;
    const auto live = part.device->live_table();
    const std::string normal = normal_form(spec.table);
    const bool same = live && live->read_only() == spec.read_only &&
                      (normal == live->source() || normal == normal_form(live->table_text()));
    if (same) {
      report_.unchanged.push_back(spec.name);
      return {};
    }
    report_.swapped.push_back(spec.name);
  } else {
    {
      std::lock_guard lock(registry_.mutex_);
      if (auto r = registry_.check_new_locked(spec); !r) return r;
    }
    part.device = registry_.make_device(spec);
    part.created = true;
    change_.created.emplace(spec.name, part.device);
    report_.created.push_back(spec.name);
  }
  change_.devices.insert(part.device.get());
  parts_.push_back(std::move(part));
  return {};
}

Result<void> Registry::Transaction::sort_bottom_up() {
  // Kahn's way over the stacks inside the set; a loop through others is found while building.
  std::map<std::string_view, std::vector<std::string>> below;
  std::set<std::string_view> waiting;
  for (const Part& part : parts_) {
    below[part.spec->name] = lower_names(part.spec->table);
    waiting.insert(part.spec->name);
  }
  std::vector<Part> sorted;
  while (!parts_.empty()) {
    const auto ready = std::stable_partition(parts_.begin(), parts_.end(), [&](const Part& part) {
      const auto& names = below[part.spec->name];
      return std::any_of(names.begin(), names.end(),
                         [&](const std::string& name) { return waiting.contains(name); });
    });
    if (ready == parts_.end())
      return placed(*parts_.front().spec,
                    {Errc::loop, fmt::format("device '{}' would stand on itself, by way of the "
                                             "others in this change",
                                             parts_.front().spec->name)});
    for (auto part = ready; part != parts_.end(); ++part) {
      waiting.erase(part->spec->name);
      sorted.push_back(std::move(*part));
    }
    parts_.erase(ready, parts_.end());
  }
  parts_ = std::move(sorted);
  return {};
}

Result<void> Registry::Transaction::build() {
  for (Part& part : parts_) {
    const DeviceSpec& spec = *part.spec;
    auto fail = [&](const Error& error) {
      return placed(spec, {error.code, fmt::format("device '{}': {}", spec.name, error.message)});
    };
    if (auto r = check_table_text(spec.table); !r) return fail(r.error());
    part.scope = std::make_unique<LoadScope>(registry_, part.device, &change_);
    LegContext context{part.scope.get(), &registry_.memories_};
    auto table = Table::create(spec.table, spec.read_only, context);
    if (!table) return fail(table.error());
    part.table = std::move(table.value());
    change_.sizes[part.device.get()] = part.table->size();
  }
  return {};
}

// --- Committing -------------------------------------------------------------------------------

Result<void> Registry::Transaction::commit(const SuspendOptions& options) {
  if (auto r = register_all(); !r) return r;
  // In one order everywhere, so that two transactions never wait for each other in a circle.
  std::vector<Part*> by_minor;
  for (Part& part : parts_)
    by_minor.push_back(&part);
  std::sort(by_minor.begin(), by_minor.end(),
            [](const Part* a, const Part* b) { return a->device->minor() < b->device->minor(); });
  for (Part* part : by_minor)
    part->control = part->device->hold_control();
  for (Part& part : parts_) {
    part.previous = part.device->exchange_inactive_held(part.table);
    part.placed = true;
  }
  if (auto r = suspend_all(options); !r) return r;
  if (auto r = start_new_tables(); !r) return r;
  swap_all();
  return {};
}

Result<void> Registry::Transaction::register_all() {
  std::lock_guard lock(registry_.mutex_);
  for (Part& part : parts_)
    if (part.created)
      if (auto r = registry_.check_new_locked(*part.spec); !r) return placed(*part.spec, r.error());
  for (const auto& device : named_) {
    const std::string name = device->name();
    const auto present = registry_.devices_.find(name);
    if (present == registry_.devices_.end() || present->second != device)
      return Error{Errc::busy, fmt::format("device '{}' was removed meanwhile: apply again", name)};
  }
  for (Part& part : parts_)
    if (part.created) registry_.devices_.emplace(part.spec->name, part.device);
  // A device that is wanted again does not go with its last close.
  for (const auto& device : named_)
    if (device->deferred_remove()) {
      device->set_deferred_remove(false);
      kept_.push_back(device);
    }
  return {};
}

Result<void> Registry::Transaction::suspend_all(const SuspendOptions& options) {
  for (Part& part : parts_)
    if (auto r = part.device->settle_held(options); !r) return r;
  for (Part* part : top_down()) {
    if (part->device->suspended_held()) continue;
    if (auto r = part->device->suspend_held({options.flush, options.timeout, {}}); !r) return r;
    part->suspended = true;
  }
  return {};
}

Result<void> Registry::Transaction::start_new_tables() {
  for (Part& part : parts_)
    if (auto r = part.device->preresume_held(); !r) return placed(*part.spec, r.error());
  return {};
}

void Registry::Transaction::swap_all() {
  std::vector<std::shared_ptr<Table>> old;
  old.reserve(parts_.size());  // nothing may fail between the first swap and the last
  TimePoint first_closed = TimePoint::max();
  for (Part& part : parts_) {
    if (part.suspended && !part.created)
      first_closed = std::min(first_closed, part.device->closed_at_held());
    old.push_back(part.device->swap_held());
  }
  committed_ = true;
  for (Part& part : parts_) {
    // Cannot fail: the new table has started already.
    static_cast<void>(part.device->go_on_held());
  }
  if (first_closed != TimePoint::max()) report_.pause = Clock::now() - first_closed;
  for (Part& part : parts_) {
    part.control.unlock();
    part.scope.reset();
    part.table.reset();
    part.previous.reset();
  }
}

std::vector<Registry::Transaction::Part*> Registry::Transaction::top_down() {
  // By the tables that serve now: those to come may turn a stack over.
  StackGraph stacks;
  for (const auto& device : registry_.list())
    if (const auto live = device->live_table())
      for (const auto& leg : live->legs())
        if (const auto lower = registry_.find(leg->device_name()))
          stacks.add(device.get(), lower.value().get());
  std::vector<std::pair<int, Part*>> order;
  for (Part& part : parts_)
    order.emplace_back(stacks.height(part.device.get()), &part);
  std::stable_sort(order.begin(), order.end(),
                   [](const auto& a, const auto& b) { return a.first > b.first; });
  std::vector<Part*> parts;
  for (const auto& [height, part] : order)
    parts.push_back(part);
  return parts;
}

// --- Backing out ------------------------------------------------------------------------------

Registry::Transaction::~Transaction() {
  if (!committed_) back_out();
}

void Registry::Transaction::back_out() noexcept {
  for (Part& part : parts_) {
    if (part.placed) part.device->exchange_inactive_held(std::move(part.previous));
    // Bottom-up, so that what an upper device releases finds its lower ones open.
    if (part.suspended && !part.created)
      if (auto r = part.device->go_on_held(); !r) log_error(r.error().message);
    if (part.control.owns_lock()) part.control.unlock();
  }
  {
    std::lock_guard lock(registry_.mutex_);
    for (const Part& part : parts_)
      if (part.created)  // whatever its name is by now
        std::erase_if(registry_.devices_,
                      [&](const auto& entry) { return entry.second == part.device; });
  }
  for (const auto& device : kept_) {
    device->set_deferred_remove(true);
    if (device->open_count() == 0) registry_.remove_when_closed(device);
  }
  for (Part& part : parts_) {
    part.table.reset();  // closes its legs while their devices are still known
    part.scope.reset();
    if (part.created) part.device->kill(Errc::removed, std::chrono::seconds(1));
  }
}

// --- The registry's verbs ---------------------------------------------------------------------

Result<ApplyReport> Registry::check(const std::vector<DeviceSpec>& specs) {
  Transaction transaction(*this, specs);
  if (auto r = transaction.plan(); !r) return r.error();
  if (auto r = transaction.build(); !r) return r.error();
  return transaction.report();
}

Result<ApplyReport> Registry::apply(const std::vector<DeviceSpec>& specs,
                                    const SuspendOptions& options) {
  ApplyReport report;
  std::map<std::string, Bytes> old_sizes;
  {
    Transaction transaction(*this, specs);
    if (auto r = transaction.plan(); !r) return r.error();
    if (auto r = transaction.build(); !r) return r.error();
    for (const auto& device : list())
      old_sizes[device->name()] = device->size();
    if (auto r = transaction.commit(options); !r) return r.error();
    report = transaction.report();
  }
  bool changed = !report.created.empty() || !report.swapped.empty();
  for (const DeviceSpec& spec : specs) {
    auto device = find(spec.name);
    if (!device) continue;
    const DeviceInfo info = device.value()->info();
    if (!spec.description.empty() && spec.description != info.description) {
      device.value()->set_description(spec.description);
      changed = true;
    }
    if (!spec.uuid.empty() && info.uuid.empty()) {
      changed = true;
      // Checked before anything was swapped: only a race with another change gets here.
      if (auto r = check_uuid(spec.uuid, device.value().get()); !r)
        report.notes.push_back(r.error().message);
      else if (r = device.value()->set_uuid(spec.uuid); !r)
        report.notes.push_back(r.error().message);
    }
  }
  for (const std::string& name : report.created)
    if (auto device = find(name)) device.value()->raise("created", {});
  for (const std::string& name : report.swapped)
    if (auto device = find(name)) announce_swap(*device.value(), old_sizes[name]);
  if (!changed) return report;
  if (auto r = save("the change was applied"); !r) return r.error();
  return report;
}

}  // namespace blockloom
