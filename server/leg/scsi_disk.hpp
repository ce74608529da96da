#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "server/base/error.hpp"

/// A SCSI disk as its initiator sees it: command blocks, and what the answers say (SPC-4, SBC-3).
/// Pure. The answers are hostile bytes.
namespace blockloom::disk {

using Cdb = std::array<std::uint8_t, 16>;

Cdb test_unit_ready() noexcept;
Cdb inquiry(std::uint16_t length) noexcept;
Cdb inquiry_page(std::uint8_t page, std::uint16_t length) noexcept;
Cdb mode_sense_6(std::uint8_t page, std::uint8_t length) noexcept;
Cdb read_capacity_10() noexcept;
Cdb read_capacity_16(std::uint32_t length) noexcept;
/// 10 bytes where LBA and count fit, else 16.
Cdb read(std::uint64_t lba, std::uint32_t blocks) noexcept;
Cdb write(std::uint64_t lba, std::uint32_t blocks, bool fua) noexcept;
/// The whole cache; of a disk whose LBAs need 16 bytes with `wide`.
Cdb synchronize_cache(bool wide) noexcept;
/// The parameter list has unmap_list_size() bytes.
Cdb unmap(std::uint16_t list_length) noexcept;
Cdb write_same_10(std::uint32_t lba, std::uint16_t blocks, bool unmap) noexcept;
Cdb write_same_16(std::uint64_t lba, std::uint32_t blocks, bool unmap) noexcept;
Cdb get_lba_status(std::uint64_t lba, std::uint32_t length) noexcept;

/// A run of blocks.
struct BlockRange {
  std::uint64_t lba = 0;
  std::uint64_t blocks = 0;
};

/// UNMAP's parameter list for these ranges, each of at most 2^32-1 blocks.
std::vector<std::uint8_t> unmap_list(std::span<const BlockRange> ranges);

/// What a check condition says.
struct Sense {
  std::uint8_t key = 0;
  std::uint16_t code = 0;  ///< ASC and ASCQ
};

/// Of fixed or descriptor format; nothing if it is neither, or too short.
std::optional<Sense> parse_sense(std::span<const std::uint8_t> bytes) noexcept;
/// "UNIT ATTENTION 2A/09 (capacity data has changed)", for messages.
std::string to_string(const Sense& sense);

namespace key {
inline constexpr std::uint8_t recovered = 0x1, not_ready = 0x2, medium = 0x3, hardware = 0x4,
                              illegal_request = 0x5, unit_attention = 0x6, data_protect = 0x7,
                              aborted = 0xb, miscompare = 0xe;
}  // namespace key

/// What of a disk decides how it is used. A value of zero for a limit: the disk names none.
struct Traits {
  std::uint64_t blocks = 0;
  std::uint32_t block_size = 0;
  bool read_only = false;
  bool fua = false;                    ///< DPOFUA: WRITE takes FUA
  bool write_cache = true;             ///< WCE; true where it cannot be told
  bool provisioned = false;            ///< LBPME
  bool unmapped_is_zero = false;       ///< LBPRZ
  bool can_unmap = false;              ///< LBPU
  bool can_unmap_same_16 = false;      ///< LBPWS
  bool can_unmap_same_10 = false;      ///< LBPWS10
  std::uint32_t max_transfer = 0;      ///< blocks of a READ or WRITE
  std::uint32_t max_unmap_blocks = 0;  ///< of an UNMAP; with its descriptors zero: no UNMAP
  std::uint32_t max_unmap_ranges = 0;
  std::uint64_t max_write_same = 0;  ///< blocks
  std::string identity;              ///< of the logical unit (VPD 83); empty: it names none
};

/// Standard INQUIRY: a disk, connected; else an error that says what it is.
Result<void> check_inquiry(std::span<const std::uint8_t> bytes);
/// Vendor and product, for messages.
std::string product(std::span<const std::uint8_t> bytes);
/// READ CAPACITY (16) or (10); false for (10) when the disk is too large for it.
bool take_capacity_10(std::span<const std::uint8_t> bytes, Traits& traits) noexcept;
bool take_capacity_16(std::span<const std::uint8_t> bytes, Traits& traits) noexcept;
/// Block size and size are ones that a leg can have.
Result<void> check_capacity(const Traits& traits);
/// The pages that VPD 00 lists.
bool lists_page(std::span<const std::uint8_t> bytes, std::uint8_t page) noexcept;
void take_identity(std::span<const std::uint8_t> bytes, Traits& traits);               ///< 83
void take_block_limits(std::span<const std::uint8_t> bytes, Traits& traits) noexcept;  ///< B0
void take_provisioning(std::span<const std::uint8_t> bytes, Traits& traits) noexcept;  ///< B2
/// MODE SENSE (6) with the caching page, or without it.
void take_mode_sense(std::span<const std::uint8_t> bytes, Traits& traits) noexcept;

/// One run of GET LBA STATUS.
struct LbaStatus {
  BlockRange range;
  std::uint8_t state = 0;  ///< 0 mapped, 1 deallocated, 2 anchored
};

/// The runs that follow each other from `lba` on, as far as the answer makes sense.
std::vector<LbaStatus> parse_lba_status(std::span<const std::uint8_t> bytes, std::uint64_t lba);

}  // namespace blockloom::disk
