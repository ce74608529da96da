#include "server/iscsi/unit_state.hpp"

namespace blockloom {

using scsi::Command;

CommandStart start_of(Command command) noexcept {
  switch (command) {
    case Command::read:
      return {start_read};
    case Command::write:
      return {start_write, true};
    case Command::test_unit_ready:
      return {start_test_unit_ready};
    case Command::request_sense:
      return {start_request_sense};
    case Command::inquiry:
      return {start_inquiry};
    case Command::mode_select:
      return {start_mode_select, true};
    case Command::mode_sense:
      return {start_mode_sense};
    case Command::reserve:
      return {start_reserve};
    case Command::release:
      return {start_release};
    case Command::start_stop:
      return {start_start_stop};
    case Command::prevent_allow:
      return {start_prevent_allow};
    case Command::read_capacity_10:
      return {start_read_capacity_10};
    case Command::read_capacity_16:
      return {start_read_capacity_16};
    case Command::write_and_verify:
      return {start_write_and_verify, true};
    case Command::verify:
      return {start_verify, true};
    case Command::pre_fetch:
      return {start_pre_fetch};
    case Command::synchronize_cache:
      return {start_synchronize_cache};
    case Command::read_defect_data:
      return {start_read_defect_data};
    case Command::write_same:
      return {start_write_same, true};
    case Command::unmap:
      return {start_unmap, true};
    case Command::compare_and_write:
      return {start_compare_and_write, true};
    case Command::or_write:
      return {start_or_write, true};
    case Command::get_lba_status:
      return {start_get_lba_status};
    case Command::persistent_in:
      return {start_persistent_in};
    case Command::persistent_out:
      return {start_persistent_out, true};
    case Command::extended_copy:
      return {start_extended_copy, true};
    case Command::receive_copy_results:
      return {start_receive_copy_results};
    case Command::report_luns:
      return {start_report_luns};
    case Command::report_target_port_groups:
      return {start_report_port_groups};
    case Command::report_opcodes:
      return {start_report_opcodes};
    case Command::report_task_functions:
      return {start_report_task_functions};
    case Command::sanitize:
      return {start_sanitize, true};
  }
  return {start_test_unit_ready};
}

bool has_command(const UnitState& unit, const scsi::CommandInfo& info) noexcept {
  switch (info.command) {
    case Command::unmap:
      return unit.options.thin;
    case Command::sanitize:
      return unit.options.sanitize && (info.service_action != 0x02 || unit.options.thin);
    default:
      return true;
  }
}

}  // namespace blockloom
