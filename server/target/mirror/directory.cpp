#include "server/target/mirror/directory.hpp"

#include <algorithm>

#include <fmt/format.h>

#include "server/leg/storage_name.hpp"

namespace blockloom::mirror {

Directory& Directory::get() {
  static Directory directory;
  return directory;
}

std::vector<std::string> Directory::holds_of(const MirrorSpec& spec) {
  std::vector<std::string> holds;
  if (spec.disk_log) holds.push_back(storage_name(spec.log_uri));
  // Unnamed memory is another one each time it is opened.
  for (const LegSpec& leg : spec.legs)
    if (!leg.uri.starts_with("mem:") || leg.uri.find('?') != std::string::npos)
      holds.push_back(fmt::format("{} {}", storage_name(leg.uri), leg.offset.value));
  return holds;
}

std::shared_ptr<Mirror> Directory::find(const MirrorSpec& spec) const {
  const auto wanted = holds_of(spec);
  const std::lock_guard lock(mutex_);
  for (const Entry& entry : entries_)
    for (const std::string& name : wanted)
      if (std::find(entry.holds.begin(), entry.holds.end(), name) != entry.holds.end())
        if (auto mirror = entry.mirror.lock()) return mirror;
  return nullptr;
}

Result<void> Directory::claim(const std::shared_ptr<Mirror>& mirror, const MirrorSpec& spec) {
  auto wanted = holds_of(spec);
  const std::lock_guard lock(mutex_);
  std::erase_if(entries_, [](const Entry& entry) { return entry.mirror.expired(); });
  for (const Entry& entry : entries_) {
    if (entry.address == mirror.get()) continue;
    for (const std::string& name : wanted)
      if (std::find(entry.holds.begin(), entry.holds.end(), name) != entry.holds.end())
        return Error{Errc::busy, fmt::format("mirror: '{}' belongs to another mirror that serves",
                                             name.substr(0, name.rfind(' ')))};
  }
  const auto own = std::find_if(entries_.begin(), entries_.end(),
                                [&](const Entry& entry) { return entry.address == mirror.get(); });
  Entry& entry = own != entries_.end() ? *own : entries_.emplace_back();
  entry = {mirror, mirror.get(), std::move(wanted)};
  return {};
}

void Directory::release(const Mirror* mirror) noexcept {
  const std::lock_guard lock(mutex_);
  std::erase_if(entries_, [&](const Entry& entry) { return entry.address == mirror; });
}

}  // namespace blockloom::mirror
