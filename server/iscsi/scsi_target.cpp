#include "server/iscsi/scsi_target.hpp"

#include <algorithm>
#include <new>

#include "proto/scsi/report.hpp"
#include "server/iscsi/unit_state.hpp"

namespace blockloom {

using scsi::Asc;
using scsi::SenseKey;

Nexus::Nexus(std::shared_ptr<ScsiTarget> target, NexusId id, NexusListener* listener)
    : target_(std::move(target)),
      id_(std::move(id)),
      ports_{{id_.initiator, id_.isid}, target_->name(), id_.portal_group},
      listener_(listener),
      no_lun_(std::make_shared<NexusLun>()) {
  no_lun_->nexus = this;
}

Nexus::~Nexus() {
  // Empty, unless it was let go without nexus_loss: before a login ended well.
  for (const auto& path : luns_) {
    UnitState& unit = path->unit->state();
    const std::lock_guard lock(unit.mutex);
    unit.forget_locked(*path);
  }
}

std::vector<std::shared_ptr<NexusLun>> Nexus::luns() const {
  const std::lock_guard lock(mutex_);
  return luns_;
}

std::shared_ptr<NexusLun> Nexus::find(std::uint64_t lun) const noexcept {
  const auto number = scsi::decode_lun(lun);
  const std::lock_guard lock(mutex_);
  if (!number) return no_lun_;
  const auto found = std::lower_bound(
      luns_.begin(), luns_.end(), *number,
      [](const std::shared_ptr<NexusLun>& path, std::uint16_t n) { return path->lun < n; });
  return found != luns_.end() && (*found)->lun == *number ? *found : no_lun_;
}

void Nexus::set_luns(const std::vector<LunEntry>& luns, Asc why) {
  std::vector<std::shared_ptr<NexusLun>> gone, all, added;
  {
    const std::lock_guard lock(mutex_);
    if (lost_) return;
    gone.swap(luns_);
    for (const LunEntry& entry : luns) {
      const auto same = std::find_if(gone.begin(), gone.end(), [&](const auto& path) {
        return path->lun == entry.lun && path->unit == entry.unit;
      });
      if (same != gone.end()) {
        all.push_back(std::move(*same));
        gone.erase(same);
        continue;
      }
      auto path = std::make_shared<NexusLun>();
      path->nexus = this;
      path->lun = entry.lun;
      path->unit = entry.unit;
      all.push_back(path);
      added.push_back(std::move(path));
    }
    luns_ = all;
  }
  for (const auto& path : gone) {
    UnitState& unit = path->unit->state();
    const std::lock_guard lock(unit.mutex);
    unit.forget_locked(*path);
    // Nobody waits for them: what ends is only not answered.
    for (ScsiTask* task = unit.first; task != nullptr; task = task->next_task)
      if (task->path == path) unit.ask_to_end_locked(*task);
  }
  for (const auto& path : added) {
    UnitState& unit = path->unit->state();
    const std::lock_guard lock(unit.mutex);
    unit.paths.push_back(path.get());
    path->kept_out = unit.reservations.kept_out(ports_);
    unit.raise_locked(*path, Asc::power_on);
  }
  for (const auto& path : all) {
    if (why != Asc::reported_luns_changed) break;
    UnitState& unit = path->unit->state();
    const std::lock_guard lock(unit.mutex);
    unit.raise_locked(*path, why);
  }
}

// --- Tasks --------------------------------------------------------------------------------------

namespace {

/// Where there is no LUN (SAM-5 5.11): INQUIRY says so, REPORT LUNS tells which there are, and
/// REQUEST SENSE has it as data; everything else is refused.
void answer_no_lun(ScsiTask& task) {
  scsi::Output data;
  std::uint64_t allocation = 0;
  switch (task.cdb[0]) {
    case 0x12:
      if ((task.cdb[1] & 0xff) == 0 && task.cdb[2] == 0)
        data = scsi::standard_inquiry(false, false);
      allocation = scsi::load16(&task.cdb[3]);
      break;
    case 0xa0: {
      std::vector<std::uint16_t> numbers;
      for (const auto& path : task.nexus->luns())
        numbers.push_back(path->lun);
      allocation = scsi::load32(&task.cdb[6]);
      if (task.cdb[2] <= 2 && allocation >= 16) data = scsi::report_luns(numbers);
      break;
    }
    default:
      break;
  }
  const auto room = std::span(task.sense).first<scsi::longest_sense>();
  const bool known = task.cdb[0] == 0x12 || task.cdb[0] == 0xa0;
  const scsi::Sense sense{SenseKey::illegal_request,
                          known ? Asc::invalid_field_in_cdb : Asc::unit_not_supported};
  if (task.cdb[0] == 0x03) {
    data.resize(scsi::longest_sense);
    data.resize(scsi::encode_sense({SenseKey::illegal_request, Asc::unit_not_supported},
                                   (task.cdb[1] & 1) != 0,
                                   std::span(data).first<scsi::longest_sense>()));
    allocation = task.cdb[4];
  } else if (data.empty()) {
    task.sense_length = static_cast<std::uint8_t>(scsi::encode_sense(sense, false, room));
    end_status(task, scsi::Status::check_condition);
    return;
  }
  task.presented = std::min<std::uint64_t>(data.size(), allocation);
  const std::size_t length = std::min<std::uint64_t>(task.presented, task.expected_in);
  task.data = task.nexus->target().units().buffers().take(length);
  if (!task.data) {
    end_status(task, scsi::Status::task_set_full);
    return;
  }
  std::copy_n(reinterpret_cast<const std::byte*>(data.data()), length, task.data.data());
  task.data_in_length = static_cast<std::uint32_t>(length);
}

}  // namespace

TaskStep Nexus::begin(ScsiTask& task) noexcept {
  task.nexus = this;
  task.path = find(task.lun);
  if (task.path->unit != nullptr) [[likely]]
    return task.path->unit->state().begin(task);
  task.path.reset();
  try {
    answer_no_lun(task);
  } catch (const std::bad_alloc&) {
    end_status(task, scsi::Status::busy);
  }
  task.phase.store(ScsiTask::Phase::ended, std::memory_order_relaxed);
  return TaskStep::ended;
}

TaskStep Nexus::proceed(ScsiTask& task) noexcept {
  return task.path->unit->state().proceed(task);
}

TaskStep Nexus::run_again(ScsiTask& task) noexcept {
  return task.path->unit->state().run_again(task);
}

void Nexus::abandon(ScsiTask& task) noexcept {
  task.path->unit->state().abandon(task);
}

// --- The target ---------------------------------------------------------------------------------

ScsiTarget::ScsiTarget(std::string name, std::shared_ptr<LogicalUnits> units)
    : name_(std::move(name)), units_(std::move(units)) {}

ScsiTarget::~ScsiTarget() = default;

std::shared_ptr<ScsiTarget> ScsiTarget::create(std::string name,
                                               std::shared_ptr<LogicalUnits> units) {
  return std::shared_ptr<ScsiTarget>(new ScsiTarget(std::move(name), std::move(units)));
}

void ScsiTarget::set_luns(std::vector<LunEntry> luns) {
  std::sort(luns.begin(), luns.end(),
            [](const LunEntry& a, const LunEntry& b) { return a.lun < b.lun; });
  const std::lock_guard lock(mutex_);
  luns_ = std::move(luns);
  std::erase_if(nexuses_, [](const auto& weak) { return weak.expired(); });
  for (const auto& weak : nexuses_)
    if (const auto nexus = weak.lock()) nexus->set_luns(luns_, Asc::reported_luns_changed);
}

std::vector<LunEntry> ScsiTarget::luns() const {
  const std::lock_guard lock(mutex_);
  return luns_;
}

std::shared_ptr<Nexus> ScsiTarget::attach(NexusId id, NexusListener* listener) {
  std::shared_ptr<Nexus> nexus(new Nexus(shared_from_this(), std::move(id), listener));
  const std::lock_guard lock(mutex_);
  std::erase_if(nexuses_, [](const auto& weak) { return weak.expired(); });
  nexuses_.push_back(nexus);
  nexus->set_luns(luns_, Asc::power_on);
  return nexus;
}

}  // namespace blockloom
