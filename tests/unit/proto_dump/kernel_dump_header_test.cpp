#include "proto/dump/kernel_dump_header.hpp"

#include <doctest/doctest.h>

#include "tests/unit/proto_dump/bytes_for_tests.hpp"

using namespace blockloom::dump;

namespace {

Wire with_parity(Wire wire) {
  wire.pad_to(512);
  std::uint32_t parity = 0;
  for (std::size_t i = 0; i < 508; i += 4)
    parity ^= be32(wire.bytes().data() + i);
  put_be32(wire.bytes().data() + 508, parity);
  return wire;
}

Wire head(std::uint32_t version) {
  Wire wire;
  wire.text("FreeBSD Kernel Dump", 20).text("amd64", 12).be(version, 4).be(2, 4).be(123456789, 8);
  return wire;
}

/// The four layouts, field by field, from the offsets in sys/kerneldump.h's history.
Wire header(std::uint32_t version) {
  Wire wire = head(version);
  switch (version) {
    case 1:
      wire.be(1700000000, 8).be(512, 4);
      wire.text("host", 64).text("FreeBSD x", 192).text("oops", 192);
      break;
    case 2:
      wire.be(1700000000, 8).be(293, 4).be(512, 4);
      wire.text("host", 64).text("FreeBSD x", 192).text("oops", 188);
      break;
    case 3:
      wire.be(777, 8).be(1700000000, 8).be(293, 4).be(512, 4).be(2, 1);
      wire.text("host", 64).text("FreeBSD x", 192).text("oops", 179);
      break;
    default:
      wire.be(1700000000, 8).be(293, 4).be(512, 4);
      wire.text("host", 64).text("FreeBSD x", 192).text("oops", 175).be(2, 1).be(777, 8);
      break;
  }
  return with_parity(wire);
}

}  // namespace

TEST_CASE("every version's header is read from its own places") {
  for (std::uint32_t version = 1; version <= 4; ++version) {
    CAPTURE(version);
    KernelDumpHeader out;
    REQUIRE(parse_kernel_dump_header(header(version), out));
    CHECK(out.version == version);
    CHECK(out.architecture == "amd64");
    CHECK(out.architecture_version == 2);
    CHECK(out.length == 123456789);
    CHECK(out.time == 1700000000);
    CHECK(out.block_size == 512);
    CHECK(out.hostname == "host");
    CHECK(out.version_string == "FreeBSD x");
    CHECK(out.panic_string == "oops");
    CHECK(out.key_size == (version >= 2 ? 293 : 0));
    CHECK(out.extent == (version >= 3 ? 777 : 0));
    CHECK(out.compression == (version >= 3 ? DumpCompression::zstd : DumpCompression::none));
    CHECK(out.parity_ok);
  }
}

TEST_CASE("wrong parity is told, and the rest is read all the same") {
  Wire wire = header(4);
  wire.bytes()[100] ^= std::byte{1};
  KernelDumpHeader out;
  REQUIRE(parse_kernel_dump_header(wire, out));
  CHECK_FALSE(out.parity_ok);
}

TEST_CASE("what is no kernel dump header is refused") {
  KernelDumpHeader out;
  CHECK_FALSE(parse_kernel_dump_header(Wire().pad_to(512), out));
  CHECK_FALSE(parse_kernel_dump_header(Wire().text("FreeBSD Kernel Dump").pad_to(511), out));
  CHECK_FALSE(parse_kernel_dump_header(with_parity(head(0)), out));
  CHECK_FALSE(parse_kernel_dump_header(with_parity(head(5)), out));
  Wire wire = header(4);
  wire.bytes()[495] = std::byte{3};
  CHECK_FALSE(parse_kernel_dump_header(wire, out));
}

TEST_CASE("fields that are full to the last byte have no NUL to find") {
  KernelDumpHeader out;
  Wire wire = head(4);
  wire.be(0, 8)
      .be(0, 8)
      .text(std::string(64, 'h'), 64)
      .text("", 192)
      .text(std::string(175, 'p'), 175);
  REQUIRE(parse_kernel_dump_header(with_parity(wire), out));
  CHECK(out.hostname == std::string(64, 'h'));
  CHECK(out.panic_string == std::string(175, 'p'));
}

TEST_CASE("a key blob is whole or nothing") {
  KernelDumpKey key;
  Wire wire;
  wire.be(1, 1).text("", 32).be(5, 4).text("12345");
  REQUIRE(parse_kernel_dump_key(wire, key));
  CHECK(key.encryption == KernelDumpKey::Encryption::aes_256_cbc);
  CHECK(key.encrypted_key_size == 5);
  wire.bytes().pop_back();
  CHECK_FALSE(parse_kernel_dump_key(wire, key));
  CHECK_FALSE(parse_kernel_dump_key(Wire().be(3, 1).text("", 36), key));
  CHECK_FALSE(parse_kernel_dump_key(Wire().pad_to(10), key));
}

TEST_CASE("a minidump's message buffer is found, and a lie about its size is not believed") {
  MinidumpMessages out;
  Wire wire;
  wire.text("minidump FreeBSD/amd64", 24).le(2, 4).le(98304, 4).pad_to(4096);
  REQUIRE(find_minidump_messages(wire, out));
  CHECK(out.offset == 4096);
  CHECK(out.size == 98304);
  put_be32(wire.bytes().data() + 28, 0xffffffff);
  CHECK_FALSE(find_minidump_messages(wire, out));
  CHECK_FALSE(find_minidump_messages(Wire().pad_to(4096), out));
}

TEST_CASE("a message ring loses its NULs, and a full one its first piece of a line") {
  using namespace std::string_view_literals;
  CHECK(text_of_message_ring(as_bytes("a\nb\n\0\0\0"sv)) == "a\nb\n");
  CHECK(text_of_message_ring(as_bytes("torn\nwhole\n"sv)) == "whole\n");
  CHECK(text_of_message_ring({}) == "");
}
