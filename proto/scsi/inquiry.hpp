#pragma once

#include <cstdint>
#include <optional>
#include <string_view>

#include "proto/scsi/bytes.hpp"
#include "proto/scsi/identity.hpp"

namespace blockloom::scsi {

/// What the pages tell of a logical unit and of the port that the command came through.
struct UnitDescription {
  Identity identity;
  std::uint32_t block_size = 512;
  bool thin = true;  ///< reports provisioning (LBPME)
  bool removable = false;
  std::string_view target_name;    ///< iSCSI name
  std::uint16_t portal_group = 1;  ///< the tag
  bool sanitize = false;
};

// The sizes that VPD B0 promises, in bytes; the commands keep to them.
inline constexpr std::uint32_t longest_transfer = 32u << 20;
inline constexpr std::uint32_t optimal_transfer = 1u << 20;
inline constexpr std::uint32_t physical_block = 4096;
inline constexpr std::uint8_t compare_and_write_blocks = 128;
inline constexpr std::uint32_t unmap_descriptors = 256;

inline constexpr std::string_view vendor = "BLOCKLM ";
inline constexpr std::string_view product = "Blockloom disk  ";

/// Standard INQUIRY data, 96 bytes (SPC-4 6.6.2). `connected` false: there is no such LUN, and
/// the qualifier says so.
Output standard_inquiry(bool connected, bool removable);

/// A VPD page; nothing for one that is not supported.
std::optional<Output> vpd_page(const UnitDescription& unit, std::uint8_t page);

}  // namespace blockloom::scsi
