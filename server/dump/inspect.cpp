#include "server/dump/inspect.hpp"

#include <algorithm>
#include <vector>

#include <fmt/format.h>

#include "proto/dump/vmcore.hpp"

namespace blockloom::dump {

bool all_zero(ByteView bytes) noexcept {
  return std::all_of(bytes.begin(), bytes.end(), [](std::byte b) { return b == std::byte{}; });
}

std::string clean_text(std::string_view text) {
  std::string out;
  for (const char c : text)
    out += static_cast<unsigned char>(c) < ' ' || c == 0x7f ? ' ' : c;
  return out;
}

void describe_image(Reception& reception) {
  Record& r = reception.record();
  std::vector<std::byte> head(kdump_header_bytes);
  auto got = reception.read(0, head);
  if (!got) return;
  const ByteView bytes = ByteView(head).first(*got);
  const ImageKind kind = sniff_image(bytes);
  r.kind = std::string(to_string(kind));
  FileRange info;
  KdumpHeader kdump;
  ElfNotes elf;
  if (kind == ImageKind::kdump && parse_kdump_header(bytes, kdump)) {
    r.kernel = clean_text(kdump.release);
    r.machine = clean_text(kdump.machine);
    r.crash_time = static_cast<double>(kdump.time);
    info = kdump.vmcoreinfo;
  } else if (kind == ImageKind::elf && find_elf_notes(bytes, elf)) {
    info = elf.where;
  }
  if (info.size == 0 || info.size > (1u << 20)) return;
  std::vector<std::byte> notes(info.size);
  got = reception.read(info.offset, notes);
  if (!got) return;
  const ByteView found = ByteView(notes).first(*got);
  const std::string_view text = kind == ImageKind::elf ? find_vmcoreinfo(found) : as_text(found);
  const VmcoreInfo vmcoreinfo = parse_vmcoreinfo(text);
  if (!vmcoreinfo.release.empty()) r.kernel = clean_text(vmcoreinfo.release);
  if (vmcoreinfo.crash_time != 0) r.crash_time = static_cast<double>(vmcoreinfo.crash_time);
}

Doubt doubt_image(Reception& reception, std::uint64_t image_end) {
  std::vector<std::byte> head(kdump_header_bytes);
  const auto got = reception.read(0, head);
  const ByteView bytes = ByteView(head).first(got ? got.value() : 0);
  KdumpHeader kdump;
  ElfNotes elf;
  const bool is_elf = find_elf_notes(bytes, elf);
  if ((parse_kdump_header(bytes, kdump) && kdump.incomplete) || (is_elf && elf.incomplete))
    return {Reason::sender, "makedumpfile marked it as incomplete"};
  if (is_elf && elf.file_end > image_end)
    return {Reason::malformed,
            fmt::format("its segments end at {}, and {} bytes came", elf.file_end, image_end)};
  return {};
}

}  // namespace blockloom::dump
