// A node's targets: what they show, and to whom.
#include <algorithm>
#include <utility>

#include <fmt/format.h>

#include "server/base/log.hpp"
#include "server/iscsi/connection.hpp"
#include "server/iscsi/node.hpp"

namespace blockloom::iscsi {

std::vector<LunOptions> Node::wanted_luns(const TargetOptions& target) const {
  std::vector<LunOptions> wanted = target.luns;
  if (!target.all_devices) return wanted;
  for (const auto& device : registry_.list()) {
    if (device->minor() > 16383 || !device->live_table()) continue;
    LunOptions lun;
    lun.lun = static_cast<std::uint16_t>(device->minor());
    lun.unit.device = device->name();
    wanted.push_back(std::move(lun));
  }
  return wanted;
}

LunInfo Node::open_lun(const TargetOptions& target, const LunOptions& lun, bool resting,
                       std::vector<LunEntry>& entries) {
  LunInfo info;
  info.lun = lun.lun;
  info.device = lun.unit.device;
  info.options = lun.unit;
  if (resting) return info;
  auto unit = units_->open(lun.unit);
  if (unit) {
    entries.push_back({lun.lun, std::move(*unit)});
    return info;
  }
  info.failure = unit.error().message;
  std::string before;
  {
    const std::lock_guard lock(mutex_);
    const auto& luns = targets_[target.name].luns;
    if (const auto known = luns.find(lun.lun); known != luns.end()) before = known->second.failure;
  }
  if (info.failure != before)
    log_warning(fmt::format("iscsi: target '{}', LUN {}: {}", target.name, lun.lun, info.failure));
  return info;
}

/// Opens what the target shows. One that shows every device holds them open only while somebody is
/// logged in, or has a reservation: nobody has asked for those devices by name, and they should be
/// as easy to remove as without the target.
void Node::map_luns(const TargetOptions& options) {
  std::shared_ptr<ScsiTarget> scsi;
  bool resting = false;
  {
    const std::lock_guard lock(mutex_);
    Target& target = targets_[options.name];
    if (!target.scsi) target.scsi = ScsiTarget::create(options.name, units_);
    scsi = target.scsi;
    resting = options.all_devices && target.sessions == 0;
  }
  const std::vector<LunEntry> before = scsi->luns();
  const auto is_reserved = [&](std::uint16_t lun) {
    for (const LunEntry& entry : before)
      if (entry.lun == lun) {
        const UnitInfo unit = entry.unit->info();
        return !unit.registrations.empty() || !unit.reservation.empty();
      }
    return false;
  };
  std::map<std::uint16_t, LunInfo> luns;
  std::vector<LunEntry> entries;
  for (const LunOptions& lun : wanted_luns(options))
    luns[lun.lun] = open_lun(options, lun, resting && !is_reserved(lun.lun), entries);
  {
    const std::lock_guard lock(mutex_);
    targets_[options.name].luns = std::move(luns);
  }
  const bool same = std::equal(
      before.begin(), before.end(), entries.begin(), entries.end(),
      [](const LunEntry& a, const LunEntry& b) { return a.lun == b.lun && a.unit == b.unit; });
  if (!same) scsi->set_luns(std::move(entries));
}

void Node::refresh() {
  const std::lock_guard one_at_a_time(applying_);
  const auto options = snapshot();
  for (const TargetOptions& target : options->targets)
    map_luns(target);
}

void Node::apply(const IscsiOptions& wanted) {
  auto next = std::make_shared<const IscsiOptions>(served(wanted));
  std::vector<std::string> gone;
  {
    const std::lock_guard one_at_a_time(applying_);
    std::vector<Target> ended;  // after the lock
    {
      const std::lock_guard lock(mutex_);
      options_ = next;
      for (auto target = targets_.begin(); target != targets_.end();) {
        if (find_target(*next, target->first) != nullptr) {
          ++target;
          continue;
        }
        gone.push_back(target->first);
        ended.push_back(std::move(target->second));
        target = targets_.erase(target);
      }
      for (auto& [tsih, entry] : sessions_) {
        const TargetOptions* const target = find_target(*next, entry.identity.target);
        const Peer& peer = entry.connection->peer();
        if (target != nullptr && !target->access.allows(entry.identity.initiator, peer.address))
          entry.connection->mailbox().post([connection = entry.connection] {
            connection->kick("the configuration does not allow it any more");
          });
      }
    }
    for (const TargetOptions& target : next->targets)
      map_luns(target);
  }
  if (!next->enabled) {  // discovery sessions as well
    kick(0, {}, {}, "the iSCSI target was switched off");
    return;
  }
  for (const std::string& name : gone)
    kick(0, {}, name, "the target was removed from the configuration");
}

std::vector<TargetInfo> Node::targets() const {
  const auto options = snapshot();
  std::vector<TargetInfo> all;
  for (const TargetOptions& target : options->targets) {
    TargetInfo info;
    info.name = target.name;
    info.alias = target.alias;
    info.all_devices = target.all_devices;
    info.chap = target.chap.required();
    std::vector<LunEntry> entries;
    {
      const std::lock_guard lock(mutex_);
      if (const auto found = targets_.find(target.name); found != targets_.end()) {
        info.sessions = found->second.sessions;
        for (const auto& [number, lun] : found->second.luns)
          info.luns.push_back(lun);
        entries = found->second.scsi->luns();
      }
    }
    for (LunInfo& lun : info.luns) {
      std::shared_ptr<LogicalUnit> unit;
      for (const LunEntry& entry : entries)
        if (entry.lun == lun.lun) unit = entry.unit;
      // One that nobody holds open is looked at, and let go again.
      if (!unit && lun.failure.empty())
        if (auto opened = units_->open(lun.options)) unit = std::move(*opened);
      if (unit) lun.unit = unit->info();
    }
    all.push_back(std::move(info));
  }
  return all;
}

}  // namespace blockloom::iscsi
