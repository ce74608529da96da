#pragma once

#include <map>
#include <memory>
#include <mutex>
#include <string>

#include "server/base/error.hpp"
#include "server/base/units.hpp"
#include "server/leg/leg.hpp"

namespace blockloom {

/// The memories that have a name: one lives while any leg uses it. Any thread.
class NamedMemory {
 public:
  /// A descriptor of the memory of that name (a memfd), owned by whoever holds the pointer.
  /// Errc::invalid if it exists with another size.
  Result<std::shared_ptr<const int>> open(const std::string& name, Bytes size);

 private:
  std::mutex mutex_;
  std::map<std::string, std::weak_ptr<const int>> by_name_;
};

/// Opens "mem:SIZE[?name=NAME]": a memfd, so that holes, trim and extents are the kernel's. SIZE
/// is a multiple of 512 up to 1T: "1G", "64K", "4096".
Result<std::shared_ptr<Leg>> open_memory_leg(std::string_view uri, bool read_only,
                                             LegContext& context);

}  // namespace blockloom
