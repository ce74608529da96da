#pragma once

#include <string>

#include "server/base/error.hpp"
#include "server/iscsi/reservations.hpp"

namespace blockloom {

/// Where a logical unit's reservations are kept: one file in a folder, replaced by write, fsync,
/// rename and fsync of the folder, with a checksum. Any thread, one call at a time for one file;
/// waits for the disk.
///
/// Nothing is kept (and an empty value read) when there is no file. Errc::corrupt names the file
/// and says what was wrong with it.
Result<Reservations> read_reservations(const std::string& folder, const std::string& name);

/// Durable when it returns ok; the folder is made (0700) if needed. Without APTPL the file goes.
/// On an error the file is as it was before, or as it was to be.
Result<void> write_reservations(const std::string& folder, const std::string& name,
                                const Reservations& reservations);

}  // namespace blockloom
