#include <algorithm>

#include "proto/scsi/report.hpp"
#include "server/iscsi/unit_state.hpp"

// INQUIRY, REPORT LUNS and the other reports; TEST UNIT READY; REQUEST SENSE.

namespace blockloom {

using scsi::Asc;
using scsi::SenseKey;

namespace {

std::uint32_t allocation_of(const ScsiTask& task) noexcept {
  return scsi::decode_length(*scsi::find_command(task.cdb).info, task.cdb);
}

}  // namespace

scsi::UnitDescription UnitState::description(const ScsiTask& task) const {
  const Nexus& nexus = *task.nexus;
  return {identity,          options.block_size,    options.thin,
          options.removable, nexus.target().name(), nexus.id().portal_group,
          options.sanitize};
}

TaskNext start_test_unit_ready(UnitState& unit, ScsiTask& task) {
  if (unit.block_count() == 0) return end_not_ready(unit, task);
  return end_good(task);
}

// The unit attention comes as data, in the format that is asked for, and is gone (SPC-4 6.39).
TaskNext start_request_sense(UnitState& unit, ScsiTask& task) {
  scsi::Sense sense;
  {
    const std::lock_guard lock(unit.mutex);
    if (task.path->attention_count != 0)
      sense = {SenseKey::unit_attention, unit.take_attention_locked(*task.path)};
    else if (unit.sanitizing.state == SanitizeState::running)
      sense = sanitizing_sense(unit);
  }
  scsi::Output data(scsi::longest_sense);
  data.resize(scsi::encode_sense(sense, (task.cdb[1] & 0x01) != 0,
                                 std::span(data).first<scsi::longest_sense>()));
  return end_data(unit, task, data, task.cdb[4]);
}

TaskNext start_inquiry(UnitState& unit, ScsiTask& task) {
  const bool vital = (task.cdb[1] & 0x01) != 0;
  if ((task.cdb[1] & 0xfe) != 0) return bad_cdb(unit, task, 1);
  if (!vital) {
    if (task.cdb[2] != 0) return bad_cdb(unit, task, 2);
    const bool there = unit.device->dead() == Errc::ok;
    return end_data(unit, task, scsi::standard_inquiry(there, unit.options.removable),
                    allocation_of(task));
  }
  const auto page = scsi::vpd_page(unit.description(task), task.cdb[2]);
  if (!page) return bad_cdb(unit, task, 2);
  return end_data(unit, task, *page, allocation_of(task));
}

TaskNext start_report_luns(UnitState& unit, ScsiTask& task) {
  const std::uint32_t allocation = allocation_of(task);
  if (task.cdb[2] > 2) return bad_cdb(unit, task, 2);
  if (allocation < 16) return bad_cdb(unit, task, 6);
  std::vector<std::uint16_t> numbers;
  for (const auto& path : task.nexus->luns()) {
    if (path->unit == nullptr) continue;
    UnitState& other = path->unit->state();
    const std::lock_guard lock(other.mutex);
    // Whoever asks has learned of it, on all units (SPC-4 6.33).
    other.drop_attention_locked(*path, Asc::reported_luns_changed);
    numbers.push_back(path->lun);
  }
  scsi::Output data = scsi::report_luns(numbers);
  if (task.cdb[2] == 1) data.assign(8, 0);  // well known ones: there are none
  return end_data(unit, task, data, allocation);
}

TaskNext start_report_port_groups(UnitState& unit, ScsiTask& task) {
  const unsigned format = task.cdb[1] >> 5;
  if (format > 1) return bad_cdb(unit, task, 1);
  return end_data(unit, task, scsi::report_port_groups(task.nexus->id().portal_group, format == 1),
                  allocation_of(task));
}

TaskNext start_report_opcodes(UnitState& unit, ScsiTask& task) {
  const auto answer = scsi::report_opcodes(
      task.cdb,
      [](const scsi::CommandInfo& info, const void* context) {
        return !has_command(*static_cast<const UnitState*>(context), info);
      },
      &unit);
  if (answer.sense) return end_check(unit, task, *answer.sense);
  return end_data(unit, task, answer.data, allocation_of(task));
}

TaskNext start_report_task_functions(UnitState& unit, ScsiTask& task) {
  const std::uint32_t allocation = allocation_of(task);
  if (allocation < 4) return bad_cdb(unit, task, 6);
  return end_data(unit, task, scsi::report_task_functions((task.cdb[2] & 0x80) != 0), allocation);
}

}  // namespace blockloom
