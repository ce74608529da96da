#pragma once

#include <cstdint>
#include <optional>

#include "proto/scsi/bytes.hpp"
#include "proto/scsi/sense.hpp"

namespace blockloom::scsi {

/// What MODE SELECT can change.
struct ModeValues {
  bool write_cache = true;        ///< WCE, caching page
  bool descriptor_sense = false;  ///< D_SENSE, control page
  bool software_protect = false;  ///< SWP, control page

  bool operator==(const ModeValues&) const = default;
};

/// The unit's, beside the pages.
struct ModeContext {
  ModeValues current;
  ModeValues defaults;
  bool write_protected = false;  ///< WP of the header: read-only, or SWP
  std::uint64_t blocks = 0;
  std::uint32_t block_size = 512;
};

/// Which values MODE SENSE asks for (PC).
enum class PageControl : std::uint8_t { current = 0, changeable = 1, defaults = 2, saved = 3 };

struct ModeSense {
  bool ten = false;  ///< the 10-byte form of the command
  bool no_block_descriptor = false;
  bool long_lba = false;  ///< LLBAA
  PageControl control = PageControl::current;
  std::uint8_t page = 0;     ///< 3Fh: all
  std::uint8_t subpage = 0;  ///< FFh: all
};

/// The data of MODE SENSE (SPC-4 6.13, SBC-3 6.5); nothing for a page that is not supported.
std::optional<Output> mode_sense(const ModeSense& request, const ModeContext& context);

/// Reads a MODE SELECT parameter list into new values (SPC-4 6.11). Any bytes are safe; on a
/// sense that is returned nothing changes.
std::optional<Sense> mode_select(Input list, bool ten, const ModeContext& context,
                                 ModeValues& values);

}  // namespace blockloom::scsi
