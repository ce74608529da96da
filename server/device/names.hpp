#pragma once

#include <string_view>

#include "server/base/error.hpp"

namespace blockloom {

/// A device's name: 1 to 127 of the letters, digits and #+-.:=@_ that device-mapper takes without
/// mangling, not starting with '-' or '.'.
Result<void> check_device_name(std::string_view name);

/// A device's uuid: 1 to 128 printable ASCII characters without blanks.
Result<void> check_device_uuid(std::string_view uuid);

/// A table's text: UTF-8, so that JSON can carry and keep it.
Result<void> check_table_text(std::string_view text);

}  // namespace blockloom
