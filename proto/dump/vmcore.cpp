#include "proto/dump/vmcore.hpp"

#include <algorithm>
#include <array>
#include <limits>

#include "proto/text/number.hpp"

namespace blockloom::dump {
namespace {

struct KindRow {
  ImageKind kind;
  std::string_view name, file;
};
constexpr std::array kinds{
    KindRow{ImageKind::unknown, "unknown", "vmcore"},
    KindRow{ImageKind::elf, "elf", "vmcore"},
    KindRow{ImageKind::kdump, "kdump", "vmcore"},
    KindRow{ImageKind::flattened, "flattened", "vmcore.flat"},
    KindRow{ImageKind::minidump, "minidump", "vmcore"},
    KindRow{ImageKind::lkcd, "lkcd", "vmcore"},
    KindRow{ImageKind::gzip, "gzip", "vmcore.gz"},
    KindRow{ImageKind::zstd, "zstd", "vmcore.zst"},
    KindRow{ImageKind::xz, "xz", "vmcore.xz"},
    KindRow{ImageKind::lz4, "lz4", "vmcore.lz4"},
};

/// Reads integers in the order of whoever wrote the file. The caller checks the bounds.
struct Order {
  bool little = true;
  std::uint16_t u16(const std::byte* p) const noexcept {
    return little ? static_cast<std::uint16_t>(u8(p) | u8(p + 1) << 8) : be16(p);
  }
  std::uint32_t u32(const std::byte* p) const noexcept { return little ? le32(p) : be32(p); }
  std::uint64_t u64(const std::byte* p) const noexcept { return little ? le64(p) : be64(p); }
};

}  // namespace

std::string_view to_string(ImageKind kind) noexcept {
  return kinds[std::min<std::size_t>(static_cast<std::size_t>(kind), kinds.size() - 1)].name;
}

bool parse_image_kind(std::string_view name, ImageKind& out) noexcept {
  for (const KindRow& row : kinds)
    if (row.name == name) {
      out = row.kind;
      return true;
    }
  return false;
}

std::string_view file_name_of(ImageKind kind) noexcept {
  return kinds[std::min<std::size_t>(static_cast<std::size_t>(kind), kinds.size() - 1)].file;
}

ImageKind sniff_image(ByteView bytes) noexcept {
  using namespace std::string_view_literals;
  const std::string_view text = as_text(bytes);
  if (text.starts_with("\x7f"
                       "ELF"sv))
    return ImageKind::elf;
  if (text.starts_with("KDUMP   "sv) || text.starts_with("DISKDUMP"sv)) return ImageKind::kdump;
  if (text.starts_with("makedumpfile\0\0\0\0"sv)) return ImageKind::flattened;
  if (text.starts_with("minidump FreeBSD/"sv)) return ImageKind::minidump;
  if (text.starts_with("\xed\x23\x8f\x61\x73\x01\x19\xa8"sv)) return ImageKind::lkcd;
  if (text.starts_with("\x1f\x8b\x08"sv)) return ImageKind::gzip;
  if (text.starts_with("\x28\xb5\x2f\xfd"sv)) return ImageKind::zstd;
  if (text.starts_with("\xfd"
                       "7zXZ\0"sv))
    return ImageKind::xz;
  if (text.starts_with("\x04\x22\x4d\x18"sv)) return ImageKind::lz4;
  return ImageKind::unknown;
}

bool parse_kdump_header(ByteView bytes, KdumpHeader& out) {
  constexpr std::size_t fixed = 464;
  if (bytes.size() < fixed) return false;
  const std::byte* p = bytes.data();
  const std::string_view signature = as_text(bytes.first(8));
  if (signature != "KDUMP   " && signature != "DISKDUMP") return false;
  Order order;
  order.little =
      le32(p + 8) < be32(p + 8);  // a small number in one order is a large one in the other
  out.version = static_cast<std::int32_t>(order.u32(p + 8));
  out.nodename = text_field(p + 77, 65);
  out.release = text_field(p + 142, 65);
  out.os_version = text_field(p + 207, 65);
  out.machine = text_field(p + 272, 65);
  out.time = order.u64(p + 408);
  out.status = order.u32(p + 424);
  out.incomplete = (out.status & 8) != 0;
  out.block_size = order.u32(p + 428);
  out.vmcoreinfo = {};
  const bool sane = out.block_size >= 512 && out.block_size <= 65536 &&
                    (out.block_size & (out.block_size - 1)) == 0;
  // The sub header has the place of VMCOREINFO since version 3.
  if (out.version >= 3 && sane && bytes.size() >= out.block_size + 48) {
    const std::byte* sub = p + out.block_size;
    out.vmcoreinfo = {order.u64(sub + 32), order.u64(sub + 40)};
  }
  return sane;
}

bool find_elf_notes(ByteView bytes, ElfNotes& out) {
  if (bytes.size() < 64 || sniff_image(bytes) != ImageKind::elf) return false;
  const std::byte* p = bytes.data();
  const bool wide = u8(p + 4) == 2;
  const Order order{u8(p + 5) != 2};
  if (order.u16(p + 16) != 4) return false;  // ET_CORE
  const std::uint64_t table = wide ? order.u64(p + 32) : order.u32(p + 28);
  out.incomplete = (order.u32(p + (wide ? 48 : 36)) & 1) != 0;
  const std::size_t entry = order.u16(p + (wide ? 54 : 42));
  const std::size_t count = order.u16(p + (wide ? 56 : 44));
  const std::size_t least = wide ? 56 : 32;
  if (entry < least || count == 0 || table > bytes.size()) return false;
  bool found = false;
  out.file_end = 0;
  for (std::size_t i = 0; i < count; ++i) {
    const std::uint64_t at = table + i * entry;
    if (at + least > bytes.size()) return found;
    const std::byte* h = p + at;
    const std::uint64_t offset = wide ? order.u64(h + 8) : order.u32(h + 4);
    const std::uint64_t size = wide ? order.u64(h + 32) : order.u32(h + 16);
    if (size > std::numeric_limits<std::int64_t>::max() -
                   std::min<std::uint64_t>(offset, std::numeric_limits<std::int64_t>::max()))
      return false;
    out.file_end = std::max(out.file_end, offset + size);
    if (order.u32(h) == 4 && !found) {  // PT_NOTE
      out.where = {offset, size};
      found = true;
    }
  }
  return found;
}

std::string_view find_vmcoreinfo(ByteView notes, bool little_endian) {
  const Order order{little_endian};
  const auto padded = [](std::uint64_t n) { return (n + 3) & ~std::uint64_t{3}; };
  while (notes.size() >= 12) {
    const std::uint64_t name_size = order.u32(notes.data());
    const std::uint64_t size = order.u32(notes.data() + 4);
    const std::uint64_t name_end = 12 + padded(name_size);
    if (name_end > notes.size() || size > notes.size() - name_end) return {};
    const std::string_view name = as_text(notes.subspan(12, name_size));
    if (name.substr(0, name.find('\0')) == "VMCOREINFO")
      return as_text(notes.subspan(name_end, size));
    const std::uint64_t next = name_end + padded(size);
    if (next > notes.size()) return {};
    notes = notes.subspan(next);
  }
  return {};
}

VmcoreInfo parse_vmcoreinfo(std::string_view text) {
  VmcoreInfo info;
  while (!text.empty()) {
    const std::string_view line = text.substr(0, text.find('\n'));
    text.remove_prefix(std::min(text.size(), line.size() + 1));
    const std::size_t equals = line.find('=');
    if (equals == std::string_view::npos) continue;
    const std::string_view key = line.substr(0, equals), value = line.substr(equals + 1);
    if (key == "OSRELEASE")
      info.release = value.substr(0, 256);
    else if (key == "BUILD-ID")
      info.build_id = value.substr(0, 128);
    else if (key == "CRASHTIME")
      parse_whole(value, info.crash_time);
    else if (key == "PAGESIZE")
      parse_whole(value, info.page_size);
  }
  return info;
}

}  // namespace blockloom::dump
