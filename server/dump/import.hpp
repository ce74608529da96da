#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <string>

#include "server/device/registry.hpp"
#include "server/dump/record.hpp"
#include "server/dump/store.hpp"

namespace blockloom::dump {

/// The bytes of a device of ours, read as a client would. Any one thread at a time.
std::unique_ptr<ImageReader> read_device(DeviceHandle device);

struct ImportOptions {
  std::string device;  ///< as messages name it
  std::string host;    ///< under which the dump is kept; empty: as the dump calls its machine
  std::function<bool()> stop;
  std::function<void(const Record&)> began;
};

/// Finds the dump that a client wrote to the source from byte 0 on (kdump's raw target), and copies
/// it into the store: makedumpfile's flattened stream is rearranged, a kdump-compressed file and an
/// ELF core end where they say. Gives its record once it is over; what is not whole is incomplete,
/// with its reason. Refused, with nothing done: Errc::invalid (no dump there), Errc::not_supported
/// (its end cannot be known), Errc::exists (it is in the store). Long.
Result<Record> import_dump(Store& store, ImageReader& source, std::uint64_t size,
                           const ImportOptions& options);

}  // namespace blockloom::dump
