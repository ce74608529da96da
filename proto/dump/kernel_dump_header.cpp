#include "proto/dump/kernel_dump_header.hpp"

#include <algorithm>

namespace blockloom::dump {
namespace {

struct Field {
  std::size_t at, size;
};

/// Where the versions differ.
struct Layout {
  std::size_t time, block_size;
  std::size_t key_size;     // 0: none
  std::size_t extent;       // 0: none
  std::size_t compression;  // 0: none
  Field hostname, version_string, panic_string;
};

constexpr Layout layouts[] = {
    {48, 56, 0, 0, 0, {60, 64}, {124, 192}, {316, 192}},
    {48, 60, 56, 0, 0, {64, 64}, {128, 192}, {320, 188}},
    {56, 68, 64, 48, 72, {73, 64}, {137, 192}, {329, 179}},
    {48, 60, 56, 496, 495, {64, 64}, {128, 192}, {320, 175}},
};

std::string field(const std::byte* p, Field f) {
  return text_field(p + f.at, f.size);
}

}  // namespace

std::string_view suffix_of(DumpCompression compression) noexcept {
  switch (compression) {
    case DumpCompression::none:
      return "";
    case DumpCompression::gzip:
      return ".gz";
    case DumpCompression::zstd:
      return ".zst";
  }
  return "";
}

bool parse_kernel_dump_header(ByteView bytes, KernelDumpHeader& out) {
  if (bytes.size() != kernel_dump_header_size) return false;
  const std::byte* p = bytes.data();
  const std::string magic = text_field(p, 20);
  if (magic != "FreeBSD Kernel Dump" && magic != "FreeBSD Text Dump") return false;
  out.text_dump = magic == "FreeBSD Text Dump";
  out.version = be32(p + 32);
  // A text dump's versions count for themselves; its layout is that of the kernel's newest.
  if (out.version < 1 || out.version > 4) return false;
  const Layout& at = layouts[out.version - 1];
  out.architecture = text_field(p + 20, 12);
  out.architecture_version = be32(p + 36);
  out.length = be64(p + 40);
  out.time = be64(p + at.time);
  out.block_size = be32(p + at.block_size);
  out.key_size = at.key_size != 0 ? be32(p + at.key_size) : 0;
  out.extent = at.extent != 0 ? be64(p + at.extent) : 0;
  const std::uint8_t compression = at.compression != 0 ? u8(p + at.compression) : std::uint8_t{0};
  if (compression > 2) return false;
  out.compression = static_cast<DumpCompression>(compression);
  out.hostname = field(p, at.hostname);
  out.version_string = field(p, at.version_string);
  out.panic_string = field(p, at.panic_string);
  std::uint32_t parity = 0;
  for (std::size_t i = 0; i < kernel_dump_header_size; i += 4)
    parity ^= be32(p + i);
  out.parity_ok = parity == 0;
  return true;
}

bool parse_kernel_dump_key(ByteView bytes, KernelDumpKey& out) {
  constexpr std::size_t fixed = 1 + 32 + 4;
  if (bytes.size() < fixed || bytes.size() > kernel_dump_key_max) return false;
  const std::uint8_t encryption = u8(bytes.data());
  if (encryption > 2) return false;
  out.encryption = static_cast<KernelDumpKey::Encryption>(encryption);
  out.encrypted_key_size = be32(bytes.data() + 33);
  return out.encrypted_key_size == bytes.size() - fixed;
}

bool find_minidump_messages(ByteView first_page, MinidumpMessages& out) {
  constexpr std::uint32_t most = 64u << 20;
  if (first_page.size() < 64) return false;
  const std::byte* p = first_page.data();
  if (!text_field(p, 24).starts_with("minidump FreeBSD/")) return false;
  const std::uint32_t size = le32(p + 28);
  if (size == 0 || size > most) return false;
  out = {4096, size};
  return true;
}

std::string text_of_message_ring(ByteView ring) {
  const std::string_view raw = as_text(ring);
  std::string text;
  text.reserve(raw.size());
  std::copy_if(raw.begin(), raw.end(), std::back_inserter(text), [](char c) { return c != '\0'; });
  // The ring has no cursor. A full one begins somewhere inside a line: that piece goes.
  if (text.size() == raw.size()) {
    const std::size_t line = text.find('\n');
    if (line != std::string::npos && line + 1 < text.size()) text.erase(0, line + 1);
  }
  return text;
}

}  // namespace blockloom::dump
