#pragma once

#include <cstdint>
#include <optional>
#include <span>

#include "proto/scsi/status.hpp"

namespace blockloom::scsi {

/// Additional sense code and qualifier in one: 0xAABB is "AAh/BBh" (SPC-4 annex D).
enum class Asc : std::uint16_t {
  none = 0x0000,
  not_ready = 0x0400,
  sanitize_in_progress = 0x041b,
  becoming_ready = 0x0401,
  stopped = 0x0402,
  write_error = 0x0c00,
  unrecovered_read_error = 0x1100,
  parameter_list_length = 0x1a00,
  miscompare_during_verify = 0x1d00,
  invalid_opcode = 0x2000,
  lba_out_of_range = 0x2100,
  invalid_field_in_cdb = 0x2400,
  unit_not_supported = 0x2500,
  invalid_field_in_parameters = 0x2600,
  invalid_release = 0x2604,
  too_many_targets = 0x2606,
  unsupported_target_type = 0x2607,
  too_many_segments = 0x2608,
  unsupported_segment_type = 0x2609,
  inline_data_exceeded = 0x260b,
  write_protected = 0x2700,
  space_allocation_failed = 0x2707,
  medium_changed = 0x2800,
  power_on = 0x2900,
  bus_device_reset = 0x2903,
  nexus_loss = 0x2907,
  mode_parameters_changed = 0x2a01,
  reservations_preempted = 0x2a03,
  reservations_released = 0x2a04,
  registrations_preempted = 0x2a05,
  capacity_changed = 0x2a09,
  commands_cleared_by_other = 0x2f00,
  sanitize_failed = 0x3103,
  saving_not_supported = 0x3900,
  no_medium = 0x3a00,
  reported_luns_changed = 0x3f0e,
  internal_failure = 0x4400,
  removal_prevented = 0x5302,
  insufficient_resources = 0x5503,
  insufficient_registration_resources = 0x5504,
  copy_target_not_reachable = 0x0d02,
};

/// What went wrong, in full.
struct Sense {
  SenseKey key = SenseKey::no_sense;
  Asc asc = Asc::none;
  /// The INFORMATION field: an LBA, or where a miscompare is.
  std::optional<std::uint64_t> information = {};
  /// The byte that is wrong, of the CDB or of the parameter list (field pointer, SPC-4 4.5.2.4.2).
  std::optional<std::uint16_t> field = {};
  bool field_in_cdb = true;
  /// Of an operation that goes on, in 65,536ths (progress indication); without `field`.
  std::optional<std::uint16_t> progress = {};

  bool operator==(const Sense&) const = default;
};

/// ILLEGAL REQUEST for byte `at` of a parameter list.
constexpr Sense bad_parameter(std::size_t at) noexcept {
  return {SenseKey::illegal_request,
          Asc::invalid_field_in_parameters,
          {},
          static_cast<std::uint16_t>(at),
          false};
}

/// ILLEGAL REQUEST for a parameter list that is too short, or longer than it says.
constexpr Sense bad_parameter_length() noexcept {
  return {SenseKey::illegal_request, Asc::parameter_list_length};
}

/// The longest sense data of encode_sense().
inline constexpr std::size_t longest_sense = 36;

/// Writes sense data, current and not deferred, in fixed (70h) or descriptor format (72h); how
/// many bytes. In fixed format an information that 32 bits do not hold is left out.
std::size_t encode_sense(const Sense& sense, bool descriptor,
                         std::span<std::uint8_t, longest_sense> out) noexcept;

}  // namespace blockloom::scsi
