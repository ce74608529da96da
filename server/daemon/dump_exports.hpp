#pragma once

#include <atomic>
#include <map>
#include <mutex>
#include <string>
#include <string_view>
#include <vector>

#include "server/base/error.hpp"
#include "server/device/registry.hpp"
#include "server/dump/service.hpp"

namespace blockloom {

/// Finished dumps as read-only devices of a registry of their own, made when a client opens one
/// and gone with its last close. A last sector that the image fills in part ends in zeros. Any
/// thread; the service outlives it.
class DumpExports final : private DeviceResolver {
 public:
  explicit DumpExports(dump::Service& service);
  ~DumpExports() override;
  DumpExports(const DumpExports&) = delete;
  DumpExports& operator=(const DumpExports&) = delete;

  /// "HOST/TIME", or another word that names a dump. While the handle lives the dump stays.
  Result<DeviceHandle> open(std::string_view dump);

  struct Export {
    std::string name;         ///< "dump/HOST/TIME"
    std::string description;  ///< the panic's line
  };
  std::vector<Export> list() const;

  void shut_down() { devices_.shut_down(); }

 private:
  Result<std::string> table_of(const dump::Record& record, std::vector<int>& tails) const;
  /// For images that are no plain file: `dev:HOST/TIME` is one.
  Result<std::shared_ptr<Leg>> open_device(std::string_view name, bool read_only) override;

  dump::Service& service_;
  Registry devices_;
  std::uint64_t listener_ = 0;
  std::mutex mutex_;  // protects what follows
  std::uint64_t next_ = 1;
  std::map<std::string, dump::DumpId> held_;  // by the device's name
};

}  // namespace blockloom
