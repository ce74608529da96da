#include "proto/scsi/copy.hpp"

#include <algorithm>

namespace blockloom::scsi {
namespace {

constexpr std::size_t header_size = 16;
constexpr std::size_t target_size = 32;
constexpr std::size_t segment_size = 28;

Sense illegal(Asc asc, std::optional<std::uint16_t> field = {}) {
  return {SenseKey::illegal_request, asc, {}, field, false};
}

std::optional<Sense> take_target(Input d, std::uint16_t at, CopyList& list) {
  if (d[0] != 0xe4) return illegal(Asc::unsupported_target_type, at);
  // LU ID TYPE is obsolete since SPC-4, and ignored.
  if ((d[1] & 0x1f) != 0) return illegal(Asc::invalid_field_in_parameters, at);
  CopyTarget target;
  target.null_device = (d[1] & 0x20) != 0;
  target.designator_type = d[5] & 0x0f;
  target.designator_size = d[7];
  if (target.designator_size > target.designator.size())
    return illegal(Asc::invalid_field_in_parameters, static_cast<std::uint16_t>(at + 7));
  std::copy_n(d.begin() + 8, target.designator_size, target.designator.begin());
  target.block_size = static_cast<std::uint32_t>(load<3>(&d[29]));
  list.targets.push_back(target);
  return {};
}

std::optional<Sense> take_segment(Input d, std::uint16_t at, CopyList& list) {
  if (d[0] != 0x02) return illegal(Asc::unsupported_segment_type, at);
  if (load16(&d[2]) != segment_size - 4)
    return illegal(Asc::invalid_field_in_parameters, static_cast<std::uint16_t>(at + 2));
  CopySegment segment;
  segment.dc = (d[1] & 0x02) != 0;
  segment.source = load16(&d[4]);
  segment.destination = load16(&d[6]);
  segment.blocks = load16(&d[10]);
  segment.source_lba = load64(&d[12]);
  segment.destination_lba = load64(&d[20]);
  list.segments.push_back(segment);
  return {};
}

std::optional<Sense> take_all(Input input, CopyList& list) {
  if (input.empty()) return {};
  if (input.size() < header_size) return illegal(Asc::parameter_list_length);
  list.list_id = input[0];
  list.list_id_usage = input[1] >> 3 & 3;
  if (list.list_id_usage == 1) return illegal(Asc::invalid_field_in_parameters, 1);
  // Told that the list is to be thrown away, an identifier has no meaning (SPC-4 6.4.3).
  const std::size_t targets = load16(&input[2]);
  const std::uint64_t segments = load32(&input[8]);
  const std::uint64_t inline_data = load32(&input[12]);
  if (targets + segments > copy_descriptor_bytes) {
    if (targets / target_size > copy_targets && segments / segment_size <= copy_segments)
      return illegal(Asc::too_many_targets, 2);
    if (segments / segment_size > copy_segments && targets / target_size <= copy_targets)
      return illegal(Asc::too_many_segments, 8);
    return illegal(Asc::parameter_list_length);
  }
  if (targets % target_size != 0) return illegal(Asc::parameter_list_length);
  if (targets / target_size > copy_targets) return illegal(Asc::too_many_targets, 2);
  if (inline_data != 0) return illegal(Asc::inline_data_exceeded, 12);
  if (header_size + targets + segments > input.size()) return illegal(Asc::parameter_list_length);

  std::size_t at = header_size;
  for (; at < header_size + targets; at += target_size)
    if (const auto bad =
            take_target(input.subspan(at, target_size), static_cast<std::uint16_t>(at), list))
      return bad;
  // The type decides a segment's length, so that it is looked at first.
  for (const std::size_t end = at + segments; at < end; at += segment_size) {
    const auto place = static_cast<std::uint16_t>(at);
    if (input[at] != 0x02) return illegal(Asc::unsupported_segment_type, place);
    if (end - at < segment_size) return illegal(Asc::parameter_list_length);
    if (list.segments.size() == copy_segments) return illegal(Asc::too_many_segments, 8);
    if (const auto bad = take_segment(input.subspan(at, segment_size), place, list)) return bad;
  }
  return {};
}

}  // namespace

CopyList parse_copy(Input list) {
  CopyList parsed;
  parsed.sense = take_all(list, parsed);
  return parsed;
}

Output copy_parameters() {
  Output out(46);
  out[4] = 0x01;  // SNLID: a list without an identifier is taken
  store<2>(&out[8], copy_targets);
  store<2>(&out[10], copy_segments);
  store<4>(&out[12], copy_descriptor_bytes);
  store<4>(&out[16], copy_segment_bytes);
  out[36] = 1;  // one copy at a time is promised
  store<2>(&out[34], 1);
  out[37] = 9;  // data segment granularity: 512
  out[43] = 2;  // two descriptor types follow
  out[44] = 0x02;
  out[45] = 0xe4;
  store<4>(&out[0], out.size() - 4);
  return out;
}

Output copy_status(bool failed, std::uint16_t segments_done, std::uint64_t bytes_done) {
  Output out(12);
  store<4>(&out[0], 8);
  out[4] = failed ? 0x02 : 0x01;
  store<2>(&out[5], segments_done);
  out[7] = 0x00;  // the count is in bytes
  store<4>(&out[8], std::min<std::uint64_t>(bytes_done, UINT32_MAX));
  return out;
}

Output copy_failure_details() {
  return Output(4);
}

}  // namespace blockloom::scsi
