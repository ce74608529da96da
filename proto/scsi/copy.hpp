#pragma once

#include <array>
#include <cstdint>
#include <optional>
#include <vector>

#include "proto/scsi/bytes.hpp"
#include "proto/scsi/sense.hpp"

namespace blockloom::scsi {

// What RECEIVE COPY RESULTS promises of EXTENDED COPY(LID1).
inline constexpr std::size_t copy_targets = 8;
inline constexpr std::size_t copy_segments = 16;
inline constexpr std::uint32_t copy_descriptor_bytes = 32 * copy_targets + 28 * copy_segments;
inline constexpr std::uint64_t copy_segment_bytes = 256u << 20;
/// The longest parameter list that is worth receiving: a little more than is allowed, so that the
/// error is told from what is wrong.
inline constexpr std::uint32_t copy_list_bytes = 16 + copy_descriptor_bytes + 1024;

/// A copy target: an identification descriptor (E4h) with one designator (SPC-4 6.4.5.2).
struct CopyTarget {
  std::uint8_t designator_type = 0;
  std::array<std::uint8_t, 20> designator{};
  std::uint8_t designator_size = 0;
  bool null_device = false;
  std::uint32_t block_size = 0;
};

/// A block device to block device segment (02h, SPC-4 6.4.6.3).
struct CopySegment {
  std::uint16_t source = 0, destination = 0;  ///< indices of targets
  std::uint16_t blocks = 0;                   ///< of the source, or of the destination with `dc`
  bool dc = false;
  std::uint64_t source_lba = 0, destination_lba = 0;
};

struct CopyList {
  std::uint8_t list_id = 0;
  std::uint8_t list_id_usage = 0;
  std::vector<CopyTarget> targets;
  std::vector<CopySegment> segments;
  std::optional<Sense> sense;  ///< what is wrong; nothing was copied then
};

/// Any bytes are safe.
CopyList parse_copy(Input list);

/// RECEIVE COPY RESULTS, operating parameters (SPC-4 6.22.4).
Output copy_parameters();
/// RECEIVE COPY RESULTS, copy status of a list that has ended (SPC-4 6.22.2).
Output copy_status(bool failed, std::uint16_t segments_done, std::uint64_t bytes_done);
/// RECEIVE COPY RESULTS, failed segment details: none are kept (SPC-4 6.22.5).
Output copy_failure_details();

}  // namespace blockloom::scsi
