#pragma once

#include <cstdint>
#include <map>
#include <string>
#include <string_view>

#include "proto/dump/bytes.hpp"

namespace blockloom::dump {

/// What the first bytes of an image say it is.
enum class ImageKind : std::uint8_t {
  unknown,
  elf,        ///< /proc/vmcore, or makedumpfile -E
  kdump,      ///< kdump-compressed
  flattened,  ///< makedumpfile -F of either
  minidump,   ///< FreeBSD's
  lkcd,
  gzip,
  zstd,
  xz,
  lz4,
};
inline constexpr std::size_t sniff_size = 32;
ImageKind sniff_image(ByteView first_bytes) noexcept;
std::string_view to_string(ImageKind kind) noexcept;  ///< "elf", "kdump", …
bool parse_image_kind(std::string_view name, ImageKind& out) noexcept;
/// How the file of such an image is called: "vmcore", "vmcore.gz"…
std::string_view file_name_of(ImageKind kind) noexcept;

/// Part of a file.
struct FileRange {
  std::uint64_t offset = 0, size = 0;
};

/// The header of a kdump-compressed file (makedumpfile's disk_dump_header, 64 bits), of either
/// byte order.
struct KdumpHeader {
  std::int32_t version = 0;
  std::string nodename, release, os_version, machine;
  std::uint64_t time = 0;    ///< of the crash, seconds since 1970
  bool incomplete = false;   ///< makedumpfile's own mark: it ran out of space
  std::uint32_t status = 0;  ///< compression bits and marks
  std::uint32_t block_size = 0;
  FileRange vmcoreinfo;  ///< from the sub header; size 0 if there is none
};
inline constexpr std::size_t kdump_header_bytes = 2 * 65536 + 104;  ///< enough for every block size
/// From the first bytes (kdump_header_bytes, or the whole file). False if it is none.
bool parse_kdump_header(ByteView bytes, KdumpHeader& out);

/// Where an ELF core keeps its notes: of 32 or 64 bits, little or big endian.
struct ElfNotes {
  FileRange where;
  std::uint64_t file_end = 0;  ///< the end of the last segment: what a whole file has at least
  bool incomplete = false;     ///< makedumpfile's mark in e_flags
};
/// From the first bytes, which must hold the program headers. False if it is no ELF core.
bool find_elf_notes(ByteView bytes, ElfNotes& out);

/// The text of the note "VMCOREINFO"; empty if it is not there.
std::string_view find_vmcoreinfo(ByteView notes, bool little_endian = true);

/// The lines KEY=VALUE of VMCOREINFO that describe the kernel.
struct VmcoreInfo {
  std::string release, build_id;
  std::uint64_t crash_time = 0, page_size = 0;
};
VmcoreInfo parse_vmcoreinfo(std::string_view text);

}  // namespace blockloom::dump
