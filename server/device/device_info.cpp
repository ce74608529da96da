#include <algorithm>

#include <fmt/format.h>

#include "server/device/device.hpp"

namespace blockloom {

std::string Device::name() const {
  std::lock_guard lock(names_);
  return name_;
}

std::string Device::uuid() const {
  std::lock_guard lock(names_);
  return uuid_;
}

void Device::set_name(std::string name) {
  std::lock_guard lock(names_);
  name_ = std::move(name);
}

Result<void> Device::set_uuid(std::string uuid) {
  std::lock_guard lock(names_);
  if (!uuid_.empty())
    return Error{Errc::exists, fmt::format("device '{}' has uuid '{}' already, and a uuid is set "
                                           "once",
                                           name_, uuid_)};
  uuid_ = std::move(uuid);
  return {};
}

void Device::set_description(std::string text) {
  std::lock_guard lock(names_);
  description_ = std::move(text);
}

std::string Device::claim() const {
  std::lock_guard lock(names_);
  return claim_;
}

void Device::set_claim(std::string why) {
  std::lock_guard lock(names_);
  claim_ = std::move(why);
}

void Device::set_failure(std::string saved_table, bool read_only, std::string why) {
  std::lock_guard lock(names_);
  saved_read_only_ = read_only;
  saved_table_ = std::move(saved_table);
  failure_ = std::move(why);
}

std::string Device::saved_table() const {
  std::lock_guard lock(names_);
  return saved_table_;
}

bool Device::saved_read_only() const {
  std::lock_guard lock(names_);
  return saved_read_only_;
}

void Device::raise(std::string_view kind, std::string detail) {
  ++event_number_;
  if (services_.notify) services_.notify(*this, kind, std::move(detail));
}

DeviceInfo Device::info() const {
  DeviceInfo info;
  {
    std::lock_guard lock(names_);
    info.name = name_;
    info.uuid = uuid_;
    info.description = description_;
    info.failure = failure_;
    info.live_table = live_ != nullptr;
    info.inactive_table = inactive_ != nullptr;
    info.targets = live_ ? live_->segments().size() : 0;
  }
  {
    std::lock_guard lock(queue_mutex_);
    info.queued = queued_;
  }
  info.minor = minor_;
  info.suspended = suspended_;
  info.read_only = read_only();
  info.deferred_remove = deferred_remove_;
  info.size = to_sectors(size());
  info.open_count = open_count_;
  info.event_number = event_number_;
  if (const TimePoint end = lease_end_; end != TimePoint{})
    info.lease_left_s = std::max(0.0, std::chrono::duration<double>(end - Clock::now()).count());
  info.totals = account_.totals();
  info.totals.in_flight = gate_.inside();
  return info;
}

std::vector<LegInfo> Device::leg_infos() const {
  std::vector<LegInfo> infos;
  if (const auto table = live_table())
    for (const auto& leg : table->legs())
      infos.push_back({leg->uri(), leg->device_name(), leg->size(), leg->totals()});
  return infos;
}

std::vector<std::string> Device::lower_devices() const {
  std::vector<std::string> names;
  for (const auto& table : {live_table(), inactive_table()}) {
    if (!table) continue;
    for (const auto& leg : table->legs())
      if (auto name = leg->device_name(); !name.empty()) names.push_back(std::move(name));
  }
  return names;
}

std::string Device::table_text(bool inactive) const {
  const auto table = inactive ? inactive_table() : live_table();
  return table ? table->table_text() : std::string();
}

std::string Device::status_text(bool inactive) const {
  const auto table = inactive ? inactive_table() : live_table();
  return table ? table->status_text() : std::string();
}

std::string Device::source(bool inactive) const {
  const auto table = inactive ? inactive_table() : live_table();
  return table ? table->source() : std::string();
}

}  // namespace blockloom
