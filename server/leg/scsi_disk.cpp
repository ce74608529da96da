#include "server/leg/scsi_disk.hpp"

#include <algorithm>
#include <limits>

#include <fmt/format.h>

#include "server/base/units.hpp"

namespace blockloom::disk {
namespace {

using Answer = std::span<const std::uint8_t>;

template <class Number>
void put(std::span<std::uint8_t> bytes, std::size_t at, Number value) {
  for (std::size_t i = sizeof value; i-- > 0; value = static_cast<Number>(value >> 7 >> 1))
    bytes[at + i] = static_cast<std::uint8_t>(value);
}

/// Zero where the answer is too short.
std::uint64_t get(Answer bytes, std::size_t at, std::size_t length) {
  if (at + length > bytes.size()) return 0;
  std::uint64_t value = 0;
  for (const std::uint8_t byte : bytes.subspan(at, length))
    value = value << 8 | byte;
  return value;
}

bool is_set(Answer bytes, std::size_t at, unsigned number) {
  return at < bytes.size() && (bytes[at] >> number & 1) != 0;
}

Cdb transfer(std::uint8_t code_10, std::uint8_t code_16, std::uint64_t lba, std::uint32_t blocks,
             bool fua) {
  Cdb cdb{};
  const bool wide = lba + blocks > std::numeric_limits<std::uint32_t>::max() ||
                    blocks > std::numeric_limits<std::uint16_t>::max();
  cdb[0] = wide ? code_16 : code_10;
  cdb[1] = fua ? 0x08 : 0;
  if (wide) {
    put(cdb, 2, lba);
    put(cdb, 10, blocks);
  } else {
    put(cdb, 2, static_cast<std::uint32_t>(lba));
    put(cdb, 7, static_cast<std::uint16_t>(blocks));
  }
  return cdb;
}

std::string text_field(Answer bytes, std::size_t at, std::size_t length) {
  std::string text;
  for (std::size_t i = at; i < at + length && i < bytes.size(); ++i)
    text += bytes[i] > ' ' && bytes[i] < 0x7f ? static_cast<char>(bytes[i]) : ' ';
  while (text.ends_with(' '))
    text.pop_back();
  return text;
}

}  // namespace

Cdb test_unit_ready() noexcept {
  return {};
}

Cdb inquiry(std::uint16_t length) noexcept {
  Cdb cdb{0x12};
  put(cdb, 3, length);
  return cdb;
}

Cdb inquiry_page(std::uint8_t page, std::uint16_t length) noexcept {
  Cdb cdb = inquiry(length);
  cdb[1] = 1;  // EVPD
  cdb[2] = page;
  return cdb;
}

Cdb mode_sense_6(std::uint8_t page, std::uint8_t length) noexcept {
  return {0x1a, 0, page, 0, length, 0};
}

Cdb read_capacity_10() noexcept {
  return {0x25};
}

Cdb read_capacity_16(std::uint32_t length) noexcept {
  Cdb cdb{0x9e, 0x10};
  put(cdb, 10, length);
  return cdb;
}

Cdb read(std::uint64_t lba, std::uint32_t blocks) noexcept {
  return transfer(0x28, 0x88, lba, blocks, false);
}

Cdb write(std::uint64_t lba, std::uint32_t blocks, bool fua) noexcept {
  return transfer(0x2a, 0x8a, lba, blocks, fua);
}

Cdb synchronize_cache(bool wide) noexcept {
  return {static_cast<std::uint8_t>(wide ? 0x91 : 0x35)};
}

Cdb unmap(std::uint16_t list_length) noexcept {
  Cdb cdb{0x42};
  put(cdb, 7, list_length);
  return cdb;
}

Cdb write_same_10(std::uint32_t lba, std::uint16_t blocks, bool unmap) noexcept {
  Cdb cdb{0x41, static_cast<std::uint8_t>(unmap ? 0x08 : 0)};
  put(cdb, 2, lba);
  put(cdb, 7, blocks);
  return cdb;
}

Cdb write_same_16(std::uint64_t lba, std::uint32_t blocks, bool unmap) noexcept {
  Cdb cdb{0x93, static_cast<std::uint8_t>(unmap ? 0x08 : 0)};
  put(cdb, 2, lba);
  put(cdb, 10, blocks);
  return cdb;
}

Cdb get_lba_status(std::uint64_t lba, std::uint32_t length) noexcept {
  Cdb cdb{0x9e, 0x12};
  put(cdb, 2, lba);
  put(cdb, 10, length);
  return cdb;
}

std::vector<std::uint8_t> unmap_list(std::span<const BlockRange> ranges) {
  std::vector<std::uint8_t> list(8 + 16 * ranges.size());
  put(std::span(list), 0, static_cast<std::uint16_t>(list.size() - 2));
  put(std::span(list), 2, static_cast<std::uint16_t>(list.size() - 8));
  for (std::size_t i = 0; i < ranges.size(); ++i) {
    put(std::span(list), 8 + 16 * i, ranges[i].lba);
    put(std::span(list), 16 + 16 * i, static_cast<std::uint32_t>(ranges[i].blocks));
  }
  return list;
}

std::optional<Sense> parse_sense(Answer bytes) noexcept {
  if (bytes.empty()) return std::nullopt;
  const std::uint8_t format = bytes[0] & 0x7f;
  if ((format == 0x70 || format == 0x71) && bytes.size() >= 3)
    return Sense{static_cast<std::uint8_t>(bytes[2] & 0x0f),
                 static_cast<std::uint16_t>(get(bytes, 12, 2))};
  if ((format == 0x72 || format == 0x73) && bytes.size() >= 4)
    return Sense{static_cast<std::uint8_t>(bytes[1] & 0x0f),
                 static_cast<std::uint16_t>(get(bytes, 2, 2))};
  return std::nullopt;
}

std::string to_string(const Sense& sense) {
  static constexpr std::string_view keys[16] = {
      "NO SENSE",       "RECOVERED ERROR", "NOT READY",      "MEDIUM ERROR",
      "HARDWARE ERROR", "ILLEGAL REQUEST", "UNIT ATTENTION", "DATA PROTECT",
      "BLANK CHECK",    "VENDOR SPECIFIC", "COPY ABORTED",   "ABORTED COMMAND",
      "key C",          "VOLUME OVERFLOW", "MISCOMPARE",     "COMPLETED"};
  struct Known {
    std::uint16_t code;
    std::string_view text;
  };
  static constexpr Known known[] = {{0x0401, "becoming ready"},
                                    {0x0403, "manual intervention required"},
                                    {0x1100, "unrecovered read error"},
                                    {0x0c00, "write error"},
                                    {0x2000, "invalid operation code"},
                                    {0x2100, "LBA out of range"},
                                    {0x2400, "invalid field in CDB"},
                                    {0x2500, "logical unit not supported"},
                                    {0x2700, "write protected"},
                                    {0x2707, "space allocation failed"},
                                    {0x2900, "power on, reset"},
                                    {0x2902, "bus reset"},
                                    {0x2907, "nexus loss"},
                                    {0x2a01, "mode parameters changed"},
                                    {0x2a09, "capacity data has changed"},
                                    {0x3a00, "medium not present"},
                                    {0x3f0e, "reported LUNs data has changed"},
                                    {0x4400, "internal target failure"}};
  const auto found = std::find_if(std::begin(known), std::end(known),
                                  [&](const Known& k) { return k.code == sense.code; });
  const std::string place =
      fmt::format("{} {:02X}/{:02X}", keys[sense.key & 0xf], sense.code >> 8, sense.code & 0xff);
  return found == std::end(known) ? place : fmt::format("{} ({})", place, found->text);
}

Result<void> check_inquiry(Answer bytes) {
  if (bytes.size() < 5) return Error{Errc::io, "its INQUIRY answer is too short"};
  const unsigned qualifier = bytes[0] >> 5, type = bytes[0] & 0x1f;
  if (qualifier != 0)
    return Error{Errc::not_found, "there is no such LUN: expected one that the target has"};
  if (type != 0)
    return Error{Errc::invalid,
                 fmt::format("the LUN is no disk: its peripheral device type is {:02X}h", type)};
  return {};
}

std::string product(Answer bytes) {
  const std::string vendor = text_field(bytes, 8, 8);
  return vendor.empty() ? text_field(bytes, 16, 16) : vendor + " " + text_field(bytes, 16, 16);
}

bool take_capacity_10(Answer bytes, Traits& traits) noexcept {
  if (bytes.size() < 8) return false;
  const std::uint64_t last = get(bytes, 0, 4);
  if (last == 0xffff'ffff) return false;
  traits.blocks = last + 1;
  traits.block_size = static_cast<std::uint32_t>(get(bytes, 4, 4));
  return true;
}

bool take_capacity_16(Answer bytes, Traits& traits) noexcept {
  if (bytes.size() < 12) return false;
  const std::uint64_t last = get(bytes, 0, 8);
  if (last == std::numeric_limits<std::uint64_t>::max()) return false;
  traits.blocks = last + 1;
  traits.block_size = static_cast<std::uint32_t>(get(bytes, 8, 4));
  traits.provisioned = is_set(bytes, 14, 7);
  traits.unmapped_is_zero = is_set(bytes, 14, 6);
  return true;
}

Result<void> check_capacity(const Traits& traits) {
  const std::uint64_t size = traits.block_size;
  if (size < sector_size || size > 65536 || (size & (size - 1)) != 0)
    return Error{
        Errc::invalid,
        fmt::format("its blocks have {} bytes: expected a power of two from 512 to 65536", size)};
  if (traits.blocks > to_bytes(max_sectors).value / size)
    return Error{Errc::invalid,
                 fmt::format("{} blocks of {} bytes are too many", traits.blocks, size)};
  return {};
}

bool lists_page(Answer bytes, std::uint8_t page) noexcept {
  if (bytes.size() < 4) return false;
  const std::size_t count = std::min<std::size_t>(get(bytes, 2, 2), bytes.size() - 4);
  const Answer pages = bytes.subspan(4, count);
  return std::find(pages.begin(), pages.end(), page) != pages.end();
}

void take_identity(Answer bytes, Traits& traits) {
  traits.identity.clear();
  if (bytes.size() < 4 || bytes[1] != 0x83) return;
  bytes = bytes.first(std::min<std::size_t>(bytes.size(), 4 + get(bytes, 2, 2)));
  for (std::size_t at = 4; at + 4 <= bytes.size(); at += 4 + std::size_t{bytes[at + 3]}) {
    const unsigned association = bytes[at + 1] >> 4 & 3, type = bytes[at + 1] & 0xf;
    const std::size_t length = bytes[at + 3];
    // Of the unit itself, not of the port: T10, EUI-64, NAA, name (SPC-4 7.8.6).
    const bool names_it = association == 0 && ((type >= 1 && type <= 3) || type == 8);
    if (!names_it || at + 4 + length > bytes.size()) continue;
    traits.identity += static_cast<char>('0' + type);
    traits.identity.append(reinterpret_cast<const char*>(bytes.data()) + at + 4, length);
  }
}

void take_block_limits(Answer bytes, Traits& traits) noexcept {
  if (bytes.size() < 4 || bytes[1] != 0xb0) return;
  bytes = bytes.first(std::min<std::size_t>(bytes.size(), 4 + get(bytes, 2, 2)));
  traits.max_transfer = static_cast<std::uint32_t>(get(bytes, 8, 4));
  traits.max_unmap_blocks = static_cast<std::uint32_t>(get(bytes, 20, 4));
  traits.max_unmap_ranges = static_cast<std::uint32_t>(get(bytes, 24, 4));
  traits.max_write_same = get(bytes, 36, 8);
}

void take_provisioning(Answer bytes, Traits& traits) noexcept {
  if (bytes.size() < 6 || bytes[1] != 0xb2) return;
  traits.can_unmap = is_set(bytes, 5, 7);
  traits.can_unmap_same_16 = is_set(bytes, 5, 6);
  traits.can_unmap_same_10 = is_set(bytes, 5, 5);
}

void take_mode_sense(Answer bytes, Traits& traits) noexcept {
  if (bytes.size() < 4) return;
  bytes = bytes.first(std::min<std::size_t>(bytes.size(), std::size_t{bytes[0]} + 1));
  traits.read_only = is_set(bytes, 2, 7);
  traits.fua = is_set(bytes, 2, 4);
  const std::size_t page = 4 + (bytes.size() >= 4 ? std::size_t{bytes[3]} : 0);
  if (page + 3 <= bytes.size() && (bytes[page] & 0x3f) == 0x08)
    traits.write_cache = is_set(bytes, page + 2, 2);
}

std::vector<LbaStatus> parse_lba_status(Answer bytes, std::uint64_t lba) {
  std::vector<LbaStatus> runs;
  // PARAMETER DATA LENGTH counts what follows its own four bytes.
  const std::size_t end = std::min<std::size_t>(bytes.size(), get(bytes, 0, 4) + 4);
  for (std::size_t at = 8; at + 16 <= end; at += 16) {
    LbaStatus run{{get(bytes, at, 8), get(bytes, at + 8, 4)},
                  static_cast<std::uint8_t>(bytes[at + 12] & 0x0f)};
    // The first may start before the LBA that was asked for.
    const std::uint64_t after = run.range.lba + run.range.blocks;
    if (after <= run.range.lba || after <= lba || run.range.lba > lba) break;
    run.range = {lba, after - lba};
    runs.push_back(run);
    lba = after;
  }
  return runs;
}

}  // namespace blockloom::disk
