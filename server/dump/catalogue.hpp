#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <map>
#include <string>
#include <string_view>
#include <vector>

#include "proto/dump/bytes.hpp"
#include "server/base/error.hpp"
#include "server/dump/back_end.hpp"

namespace blockloom::dump {

// What a device that holds dumps looks like: blocks of 4096 bytes.
//
//   0, 1    the superblock, twice: where all else lies; written once
//   A, B    two slots for the catalogue; generation N is in slot N % 2
//   data    images and larger files, in runs of blocks
//
// A generation is a header block and a payload, each under its checksum. One that was not written
// to its end is not there, and the other slot has the one before. docs/design-notes.md says why
// its runs are still whole then.

inline constexpr std::uint64_t store_block = 4096;
inline constexpr std::uint64_t store_blocks_min = 256;  ///< a device of 1 MiB

/// A run of blocks of the device.
struct BlockRun {
  std::uint64_t begin = 0, count = 0;
  std::uint64_t end() const noexcept { return begin + count; }
  bool operator==(const BlockRun&) const = default;
};

std::uint64_t bytes_in(const std::vector<BlockRun>& runs) noexcept;

using StoreUuid = std::array<std::byte, 16>;

struct Superblock {
  StoreUuid uuid{};
  std::uint64_t slot_blocks = 0;  ///< of each slot, its header among them
  bool operator==(const Superblock&) const = default;

  std::uint64_t slot(std::uint64_t generation) const noexcept {
    return 2 + generation % 2 * slot_blocks;
  }
  std::uint64_t data_begin() const noexcept { return 2 + 2 * slot_blocks; }
};

/// Who wrote a generation: tells two servers on one store apart.
struct StoreOwner {
  StoreUuid server{};       ///< made up at each start
  std::uint64_t boot = 0;   ///< of the machine
  std::uint64_t since = 0;  ///< when its process started, in ticks since that boot
  std::uint32_t pid = 0;
  bool in_use = false;  ///< false: it ended in good order
  bool operator==(const StoreOwner&) const = default;
};

struct Generation {
  std::uint64_t number = 0;
  std::uint64_t length = 0;  ///< of the payload, bytes
  std::uint32_t crc = 0;     ///< of the payload
  StoreOwner owner;
};

/// A small file of a dump: in the catalogue itself, or in blocks.
struct StoredFile {
  std::uint64_t length = 0;
  std::string bytes;             ///< all of it, if `blocks` is empty
  std::vector<BlockRun> blocks;  ///< room for `length` bytes at least
  bool operator==(const StoredFile&) const = default;
};

struct StoredDump {
  std::string image_name;
  std::uint64_t length = 0;  ///< bytes of the image that are defined: written, or zeros
  bool finished = false;     ///< the image is over; `length` is its own
  std::vector<BlockRun> image;
  std::map<std::string, StoredFile, std::less<>> files;
  bool operator==(const StoredDump&) const = default;
};

/// All that a store holds.
struct Catalogue {
  std::map<DumpId, StoredDump> dumps;
  std::map<std::string, StoredFile, std::less<>> logs;  ///< of hosts
  bool operator==(const Catalogue&) const = default;
};

/// How large the slots of a new store on so many blocks are.
std::uint64_t slot_blocks_for(std::uint64_t blocks) noexcept;

/// One block each. The parsers refuse every block that is not whole and right: Errc::corrupt.
std::string superblock_text(const Superblock& superblock);
Result<Superblock> parse_superblock(ByteView block, std::uint64_t blocks);
std::string generation_text(const Generation& generation, const StoreUuid& store);
Result<Generation> parse_generation(ByteView block, const Superblock& superblock);

/// A block with the checksum that it should have.
std::string checked_block(std::string bytes);

/// The payload. Read back, every run lies in [data_begin, blocks) and none overlaps another, every
/// name is one, every file fits its blocks; else Errc::corrupt.
std::string catalogue_text(const Catalogue& catalogue);
Result<Catalogue> parse_catalogue(ByteView payload, std::uint64_t data_begin, std::uint64_t blocks);

/// The blocks of a device that nobody has.
class FreeBlocks {
 public:
  FreeBlocks() = default;
  FreeBlocks(std::uint64_t begin, std::uint64_t end) {
    if (begin < end) give({begin, end - begin});
  }

  /// A run of at most `count` blocks, a multiple of `unit` of them while there is one: behind
  /// `after` if that is free, else in the first gap that takes all, else the largest there is.
  /// Empty: none is left.
  BlockRun take(std::uint64_t count, std::uint64_t after = 0, std::uint64_t unit = 1);
  /// This very run. False, with nothing changed, if any of it is taken or does not exist.
  bool take_exactly(const BlockRun& run);
  void give(const BlockRun& run);
  std::uint64_t count() const noexcept { return count_; }

 private:
  BlockRun cut(std::uint64_t gap, std::uint64_t begin, std::uint64_t count);

  std::map<std::uint64_t, std::uint64_t> gaps_;  // begin → count; none touches another
  std::uint64_t count_ = 0;
};

}  // namespace blockloom::dump
