#pragma once

#include <cstdint>
#include <string>
#include <string_view>

#include "proto/dump/bytes.hpp"

namespace blockloom::dump {

enum class DumpCompression : std::uint8_t { none = 0, gzip = 1, zstd = 2 };

/// ".gz", ".zst" or nothing.
std::string_view suffix_of(DumpCompression compression) noexcept;

/// FreeBSD's struct kerneldumpheader (sys/sys/kerneldump.h), versions 1 to 4.
struct KernelDumpHeader {
  bool text_dump = false;  ///< "FreeBSD Text Dump": a tar archive, not memory
  std::uint32_t version = 0;
  std::string architecture;
  std::uint32_t architecture_version = 0;
  std::uint64_t length = 0;  ///< bytes of the dump; of the compressed one if it is compressed
  std::uint64_t time = 0;    ///< seconds since 1970
  std::uint64_t extent = 0;
  std::uint32_t key_size = 0;  ///< over 0: encrypted
  std::uint32_t block_size = 0;
  DumpCompression compression = DumpCompression::none;
  std::string hostname, version_string, panic_string;
  bool parity_ok = false;  ///< the XOR of all 128 words is 0
};

inline constexpr std::size_t kernel_dump_header_size = 512;

/// False if the bytes are no such header: size, magic, version or compression. Wrong parity is
/// told in the header itself.
bool parse_kernel_dump_header(ByteView bytes, KernelDumpHeader& out);

/// FreeBSD's struct kerneldumpkey: the key blob of an encrypted dump (EKCD).
struct KernelDumpKey {
  enum class Encryption : std::uint8_t { none = 0, aes_256_cbc = 1, chacha20 = 2 };
  Encryption encryption = Encryption::none;
  std::uint32_t encrypted_key_size = 0;
};
inline constexpr std::size_t kernel_dump_key_max = 37 + 2048;

/// False unless the whole blob is there and its sizes agree.
bool parse_kernel_dump_key(ByteView bytes, KernelDumpKey& out);

/// Where the message buffer lies in a FreeBSD minidump.
struct MinidumpMessages {
  std::uint64_t offset = 0, size = 0;
};
/// From the first page; false if it is no minidump header, or names more than 64 MiB.
bool find_minidump_messages(ByteView first_page, MinidumpMessages& out);

/// The text of a raw message ring: NULs dropped, begun at a whole line.
std::string text_of_message_ring(ByteView ring);

}  // namespace blockloom::dump
