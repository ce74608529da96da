#include "proto/scsi/report.hpp"

#include <algorithm>

namespace blockloom::scsi {

Output read_capacity_10(std::uint64_t blocks, std::uint32_t block_size) {
  Output out;
  append<4>(out, std::min<std::uint64_t>(blocks == 0 ? 0 : blocks - 1, UINT32_MAX));
  append<4>(out, block_size);
  return out;
}

Output read_capacity_16(const UnitDescription& unit, std::uint64_t blocks) {
  Output out;
  append<8>(out, blocks == 0 ? 0 : blocks - 1);
  append<4>(out, unit.block_size);
  out.resize(32);
  for (std::uint32_t size = unit.block_size; size < physical_block; size *= 2)
    ++out[13];                    // LBPPBE
  if (unit.thin) out[14] = 0xc0;  // LBPME, LBPRZ
  return out;
}

std::uint64_t encode_lun(std::uint16_t lun) noexcept {
  const std::uint64_t first = lun < 256 ? lun : 0x4000u | lun;
  return first << 48;
}

std::optional<std::uint16_t> decode_lun(std::uint64_t lun) noexcept {
  if ((lun & 0xffffffffffff) != 0) return {};
  const auto first = static_cast<std::uint16_t>(lun >> 48);
  if (first < 256) return first;
  if (first >> 14 == 1) return static_cast<std::uint16_t>(first & 0x3fff);
  return {};
}

Output report_luns(std::span<const std::uint16_t> luns) {
  Output out;
  append<4>(out, 8 * std::max<std::size_t>(luns.size(), 1));
  append<4>(out, 0);
  for (const std::uint16_t lun : luns)
    append<8>(out, encode_lun(lun));
  if (luns.empty()) append<8>(out, 0);
  return out;
}

namespace {

// No recommended timeouts: the descriptor says so with zeroes (SPC-4 6.35.4).
void append_timeouts(Output& out) {
  append<2>(out, 10);
  out.resize(out.size() + 10);
}

Output all_opcodes(bool timeouts, bool (*keep_out)(const CommandInfo&, const void*),
                   const void* context) {
  Output out(4);
  for (const CommandInfo& info : supported_commands()) {
    if (keep_out(info, context)) continue;
    append<2>(out, std::uint64_t{info.opcode} << 8);
    append<2>(out, info.service_action < 0 ? 0 : static_cast<std::uint16_t>(info.service_action));
    append<1>(out, 0);
    append<1>(out, (timeouts ? 2 : 0) | (info.service_action >= 0 ? 1 : 0));
    append<2>(out, info.length);
    if (timeouts) append_timeouts(out);
  }
  store<4>(&out[0], out.size() - 4);
  return out;
}

Output one_opcode(const CommandInfo* info, bool timeouts) {
  if (info == nullptr) return Output{0, 0x01, 0, 0};  // not supported
  Output out(4u + info->length);
  out[1] = static_cast<std::uint8_t>((timeouts ? 0x80 : 0) | 0x03);
  store<2>(&out[2], info->length);
  std::copy_n(info->usage.begin(), info->length, out.begin() + 4);
  // The usage map has the service action itself where its bits are (SPC-4 6.35.3).
  if (info->service_action >= 0)
    out[5] = static_cast<std::uint8_t>((out[5] & 0xe0) | info->service_action);
  if (timeouts) append_timeouts(out);
  return out;
}

}  // namespace

OpcodesAnswer report_opcodes(const Cdb& cdb, bool (*keep_out)(const CommandInfo&, const void*),
                             const void* context) {
  const bool timeouts = (cdb[2] & 0x80) != 0;
  const unsigned options = cdb[2] & 0x07;
  const unsigned action = load16(&cdb[4]);
  const auto wrong = [](std::uint16_t field) {
    return OpcodesAnswer{
        {}, Sense{SenseKey::illegal_request, Asc::invalid_field_in_cdb, {}, field, true}};
  };
  if (options == 0) return {all_opcodes(timeouts, keep_out, context), {}};
  if (options > 3) return wrong(2);
  const CommandInfo* info = find_opcode(cdb[3]);
  // The first of an opcode's actions is kept out where all of them are.
  if (info != nullptr && keep_out(*info, context)) info = nullptr;
  const bool has_actions = info != nullptr && info->service_action >= 0;
  // 1: an opcode without service actions; 2: one with; 3: whichever it is.
  if (options == 1 && has_actions) return wrong(2);
  if (options == 2 && info != nullptr && !has_actions) return wrong(2);
  if (has_actions) {
    Cdb wanted{cdb[3], static_cast<std::uint8_t>(action & 0x1f)};
    info = action > 0x1f ? nullptr : find_command(wanted).info;
  } else if (options == 3 && action != 0) {
    info = nullptr;
  }
  if (info != nullptr && keep_out(*info, context)) info = nullptr;
  return {one_opcode(info, timeouts), {}};
}

Output report_task_functions(bool with_timeouts) {
  Output out(with_timeouts ? 16 : 4);
  // ABORT TASK, ABORT TASK SET, CLEAR TASK SET, LOGICAL UNIT RESET, and the obsolete TARGET RESET.
  out[0] = 0x80 | 0x40 | 0x10 | 0x08 | 0x02;
  if (with_timeouts) out[3] = 12;
  return out;
}

Output report_port_groups(std::uint16_t portal_group, bool extended_header) {
  Output out(extended_header ? 8 : 4);
  if (extended_header) out[4] = 0x10;
  out.resize(out.size() + 12);
  std::uint8_t* group = out.data() + out.size() - 12;
  group[0] = 0x00;  // active/optimized
  group[1] = 0x01;  // the only state that is supported
  store<2>(group + 2, portal_group);
  group[5] = 0x00;  // no state change was reported
  group[7] = 1;
  store<2>(group + 10, portal_group);
  store<4>(&out[0], out.size() - 4);
  return out;
}

Output lba_statuses(std::span<const LbaStatus> statuses) {
  Output out;
  append<4>(out, 4 + 16 * statuses.size());
  append<4>(out, 0);
  for (const LbaStatus& s : statuses) {
    append<8>(out, s.lba);
    append<4>(out, s.blocks);
    append<4>(out, s.mapped ? 0 : 0x01000000);
  }
  return out;
}

std::size_t unmap_count(Input list) noexcept {
  if (list.size() < 8) return 0;
  return std::min<std::size_t>(load16(&list[2]), list.size() - 8) / 16;
}

UnmapRange unmap_range(Input list, std::size_t index) noexcept {
  const std::uint8_t* at = list.data() + 8 + 16 * index;
  return {load64(at), load32(at + 8)};
}

}  // namespace blockloom::scsi
