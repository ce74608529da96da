#include "proto/dump/vmcore.hpp"

#include <doctest/doctest.h>

#include "tests/unit/proto_dump/bytes_for_tests.hpp"

using namespace blockloom::dump;

namespace {

/// As a 64-bit little-endian makedumpfile writes it.
Wire kdump() {
  Wire w;
  w.text("KDUMP   ", 8).le(6, 4);
  w.text("Linux", 65).text("web1", 65).text("6.1.0", 65).text("#1 SMP", 65).text("x86_64", 65);
  w.text("(none)", 65).pad_to(408);
  w.le(1700000000, 8).le(0, 8).le(8 | 0x20, 4).le(4096, 4).le(1, 4).pad_to(4096);
  w.pad_to(4096 + 32).le(8192, 8).le(2000, 8).pad_to(8192);
  return w;
}

Wire elf() {
  Wire w;
  w.text("\x7f\x45\x4c\x46\x02\x01\x01", 16)
      .le(4, 2)
      .le(62, 2)
      .le(1, 4)
      .le(0, 8)
      .le(64, 8)
      .le(0, 8);
  w.le(0, 4).le(64, 2).le(56, 2).le(2, 2).pad_to(64);
  w.le(4, 4).le(0, 4).le(0x1000, 8).le(0, 8).le(0, 8).pad_to(64 + 32).le(300, 8).pad_to(64 + 56);
  w.le(1, 4).le(7, 4).le(0x2000, 8).pad_to(64 + 56 + 32).le(0x5000, 8).pad_to(64 + 112);
  return w;
}

Wire& note(Wire& w, std::string_view name, std::string_view text) {
  w.le(name.size() + 1, 4).le(text.size(), 4).le(0, 4).text(name).text("", 1);
  w.pad_to((w.bytes().size() + 3) / 4 * 4).text(text);
  return w.pad_to((w.bytes().size() + 3) / 4 * 4);
}

}  // namespace

TEST_CASE("the first bytes say what an image is") {
  using namespace std::string_view_literals;
  CHECK(sniff_image(as_bytes("\x7f"
                             "ELF...."sv)) == ImageKind::elf);
  CHECK(sniff_image(as_bytes("KDUMP   ...."sv)) == ImageKind::kdump);
  CHECK(sniff_image(as_bytes("makedumpfile\0\0\0\0"sv)) == ImageKind::flattened);
  CHECK(sniff_image(as_bytes("makedumpfile.txt"sv)) == ImageKind::unknown);
  CHECK(sniff_image(as_bytes("minidump FreeBSD/amd64"sv)) == ImageKind::minidump);
  CHECK(sniff_image(as_bytes("\x1f\x8b\x08"sv)) == ImageKind::gzip);
  CHECK(sniff_image(as_bytes("\x28\xb5\x2f\xfd"sv)) == ImageKind::zstd);
  CHECK(sniff_image(as_bytes("\xfd"
                             "7zXZ\0"sv)) == ImageKind::xz);
  CHECK(sniff_image({}) == ImageKind::unknown);
  ImageKind kind = ImageKind::unknown;
  CHECK(parse_image_kind("kdump", kind));
  CHECK(kind == ImageKind::kdump);
  CHECK_FALSE(parse_image_kind("jpeg", kind));
}

TEST_CASE("a kdump header names its machine, kernel and time, and whether it is whole") {
  KdumpHeader out;
  REQUIRE(parse_kdump_header(kdump(), out));
  CHECK(out.version == 6);
  CHECK(out.nodename == "web1");
  CHECK(out.release == "6.1.0");
  CHECK(out.machine == "x86_64");
  CHECK(out.time == 1700000000);
  CHECK(out.incomplete);
  CHECK(out.block_size == 4096);
  CHECK(out.vmcoreinfo.offset == 8192);
  CHECK(out.vmcoreinfo.size == 2000);
}

TEST_CASE("a kdump header with an absurd block size is none") {
  KdumpHeader out;
  Wire wire = kdump();
  put_be32(wire.bytes().data() + 428, 0xffffffff);
  CHECK_FALSE(parse_kdump_header(wire, out));
  CHECK_FALSE(parse_kdump_header(ByteView(kdump()).first(100), out));
}

TEST_CASE("an ELF core's notes and its end are found") {
  ElfNotes out;
  REQUIRE(find_elf_notes(elf(), out));
  CHECK(out.where.offset == 0x1000);
  CHECK(out.where.size == 300);
  CHECK(out.file_end == 0x7000);
  CHECK_FALSE(out.incomplete);
  Wire program = elf();
  program.bytes()[16] = std::byte{2};  // ET_EXEC
  CHECK_FALSE(find_elf_notes(program, out));
}

TEST_CASE("VMCOREINFO is found behind other notes, and its lines are read") {
  Wire notes;
  note(notes, "CORE", "registers of a processor");
  note(notes, "VMCOREINFO",
       "OSRELEASE=6.1.0\nBUILD-ID=abc\nPAGESIZE=4096\nCRASHTIME=1700000001\nX\n");
  const VmcoreInfo info = parse_vmcoreinfo(find_vmcoreinfo(notes));
  CHECK(info.release == "6.1.0");
  CHECK(info.build_id == "abc");
  CHECK(info.page_size == 4096);
  CHECK(info.crash_time == 1700000001);
}

TEST_CASE("notes that lie about their sizes end the search") {
  CHECK(find_vmcoreinfo(Wire().le(0xffffffff, 4).le(0, 4).le(0, 4)).empty());
  CHECK(find_vmcoreinfo(Wire().le(4, 4).le(0xffffffff, 4).le(0, 4).text("abc", 4)).empty());
  CHECK(find_vmcoreinfo(Wire().pad_to(11)).empty());
  // Empty notes without end: each takes its twelve bytes.
  CHECK(find_vmcoreinfo(Wire().pad_to(1200)).empty());
}
