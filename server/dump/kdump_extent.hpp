#pragma once

#include <cstdint>
#include <functional>

#include "server/base/error.hpp"
#include "server/dump/back_end.hpp"

namespace blockloom::dump {

/// Where a kdump-compressed file that begins at byte 0 of a source ends: behind the last page that
/// its descriptors name. Hostile bytes: everything is checked against `size`. Errc::not_supported:
/// a part of a split dump, or a version without what it takes. Errc::corrupt: it does not fit.
Result<std::uint64_t> kdump_end(ImageReader& source, std::uint64_t size,
                                const std::function<bool()>& stop);

}  // namespace blockloom::dump
