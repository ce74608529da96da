#pragma once

#include <array>
#include <cstdint>
#include <optional>
#include <string>
#include <string_view>

namespace blockloom::scsi {

/// How a logical unit is known to initiators. Made of a text that outlives restarts, and nothing
/// else: the same text gives the same identity on every server.
struct Identity {
  std::array<std::uint8_t, 8> naa{};  ///< NAA 3h, locally assigned (SPC-4 7.8.6.6.4)
  std::string serial;                 ///< the text, 1 to 128 printable ASCII characters
  std::optional<std::array<std::uint8_t, 16>> uuid;  ///< where the text is a UUID (RFC 4122)

  bool operator==(const Identity&) const = default;
};

/// Other bytes than printable ASCII become '_'; an empty text is "unnamed".
Identity identity_of(std::string_view text);

/// "naa.3" and 15 hexadecimal digits.
std::string naa_text(const Identity& identity);

}  // namespace blockloom::scsi
