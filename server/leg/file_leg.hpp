#pragma once

#include <memory>
#include <string_view>

#include "server/base/error.hpp"
#include "server/leg/leg.hpp"

namespace blockloom {

/// Opens "/path" or "file:///path" (with %XX): a regular file or a block device.
Result<std::shared_ptr<Leg>> open_file_leg(std::string_view uri, bool read_only);

}  // namespace blockloom
