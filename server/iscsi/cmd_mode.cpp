#include "server/iscsi/unit_state.hpp"

// MODE SENSE and MODE SELECT, 6 and 10.

namespace blockloom {

using scsi::Asc;
using scsi::SenseKey;

scsi::ModeValues UnitState::mode() const noexcept {
  const unsigned bits = mode_bits.load(std::memory_order_relaxed);
  return {(bits & 1) == 0, (bits & 2) != 0, (bits & 4) != 0};
}

void UnitState::set_mode(const scsi::ModeValues& values) noexcept {
  mode_bits.store(
      static_cast<std::uint8_t>((values.write_cache ? 0 : 1) | (values.descriptor_sense ? 2 : 0) |
                                (values.software_protect ? 4 : 0)),
      std::memory_order_relaxed);
}

scsi::ModeContext UnitState::mode_context() const {
  return {mode(), {}, write_protected(), block_count(), options.block_size};
}

TaskNext start_mode_sense(UnitState& unit, ScsiTask& task) {
  scsi::ModeSense request;
  request.ten = task.cdb[0] == 0x5a;
  request.no_block_descriptor = (task.cdb[1] & 0x08) != 0;
  request.long_lba = (task.cdb[1] & 0x10) != 0;
  request.control = static_cast<scsi::PageControl>(task.cdb[2] >> 6);
  request.page = task.cdb[2] & 0x3f;
  request.subpage = task.cdb[3];
  if (request.control == scsi::PageControl::saved)
    return end_check(unit, task, SenseKey::illegal_request, Asc::saving_not_supported);
  const auto data = scsi::mode_sense(request, unit.mode_context());
  if (!data) return bad_cdb(unit, task, 2);
  return end_data(unit, task, *data,
                  request.ten ? scsi::load16(&task.cdb[7]) : std::uint64_t{task.cdb[4]});
}

namespace {

TaskNext select_with_data(UnitState& unit, ScsiTask& task) {
  const bool ten = task.cdb[0] == 0x55;
  if (task.data_out_wanted < task.presented)
    return end_check(unit, task, SenseKey::illegal_request, Asc::parameter_list_length);
  scsi::ModeValues values = unit.mode();
  if (const auto sense = scsi::mode_select(data_of(task), ten, unit.mode_context(), values))
    return end_check(unit, task, *sense);
  const std::lock_guard lock(unit.mutex);
  if (!(values == unit.mode())) {
    unit.set_mode(values);
    unit.raise_others_locked(task.path.get(), Asc::mode_parameters_changed);
  }
  return end_good(task);
}

}  // namespace

TaskNext start_mode_select(UnitState& unit, ScsiTask& task) {
  if ((task.cdb[1] & 0x10) == 0 || (task.cdb[1] & 0x01) != 0)  // not PF, or SP
    return bad_cdb(unit, task, 1);
  const std::uint32_t length = task.cdb[0] == 0x55 ? scsi::load16(&task.cdb[7]) : task.cdb[4];
  return want_data(unit, task, length, select_with_data);
}

}  // namespace blockloom
