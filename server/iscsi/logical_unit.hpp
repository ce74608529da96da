#pragma once

#include <atomic>
#include <cstdint>
#include <map>
#include <memory>
#include <mutex>
#include <string>
#include <string_view>
#include <vector>

#include "server/base/error.hpp"
#include "server/base/timer_queue.hpp"
#include "server/device/registry.hpp"
#include "server/iscsi/data_buffer.hpp"
#include "server/iscsi/sanitize.hpp"
#include "server/iscsi/scsi_task.hpp"
#include "server/iscsi/slow_lane.hpp"

namespace blockloom {

class LogicalUnit;
class LogicalUnits;
struct UnitState;

/// How a device is presented as a logical unit.
struct UnitOptions {
  std::string device;              ///< its name in the registry
  std::uint32_t block_size = 512;  ///< 512 or 4096
  bool read_only = false;          ///< also when the device is not
  bool thin = true;                ///< reports provisioning, so that initiators unmap
  bool removable = false;          ///< the medium can be ejected, and loaded again
  bool sanitize = false;           ///< legs write in place, so that SANITIZE keeps its promise
  std::string serial;              ///< empty: the device's uuid, or else its name

  bool operator==(const UnitOptions&) const = default;
};

/// One registration for persistent reservations, for `iscsi reservations`.
struct RegistrationInfo {
  std::string initiator;  ///< "iqn…,i,0xISID"
  std::string target;     ///< the target port: "iqn…,t,0xTAG"
  std::uint64_t key = 0;
  bool holder = false;
};

struct UnitInfo {
  UnitOptions options;
  std::string identifier;  ///< VPD 83's, as initiators show it: "naa.3…"
  std::uint64_t blocks = 0;
  std::size_t tasks = 0;         ///< in the task set now
  std::string reservation;       ///< "", "reserve", or the persistent one's type in words
  std::string reserve_holder;    ///< of RESERVE(6)
  std::uint32_t generation = 0;  ///< PRGENERATION
  bool aptpl = false;
  std::vector<RegistrationInfo> registrations;
};

/// What logical units share, and all of them by device: a device is one logical unit however many
/// targets and paths show it. One in a process; made before its targets. Any thread.
class LogicalUnits : public std::enable_shared_from_this<LogicalUnits> {
 public:
  struct Options {
    /// Where persistent reservations with APTPL are kept, a file for each unit; empty: such
    /// reservations are refused. Made (0700) when first needed.
    std::string folder;
    std::size_t buffer_bytes = std::size_t{512} << 20;  ///< of all tasks' data together
    std::size_t tasks_per_unit = 1024;                  ///< more answer TASK SET FULL
  };
  static std::shared_ptr<LogicalUnits> create(Registry& registry, Options options);
  ~LogicalUnits();

  /// The device's logical unit, made now or before. It holds the device open. Errors: no such
  /// device; a block size that does not divide its size; other options than the unit has already.
  /// Reads saved reservations (may wait for a disk).
  Result<std::shared_ptr<LogicalUnit>> open(const UnitOptions& options);

  /// Those that a target has, by device.
  std::vector<std::shared_ptr<LogicalUnit>> list() const;

  DataBufferPool& buffers() noexcept { return buffers_; }
  const Options& options() const noexcept { return options_; }
  TimerQueue& worker() noexcept { return worker_; }
  SlowLane& slow_lane() noexcept { return slow_lane_; }
  Sanitizers& sanitizers() noexcept { return sanitizers_; }

 private:
  LogicalUnits(Registry& registry, Options options);
  void notice_size(const std::string& device) noexcept;

  Registry& registry_;
  const Options options_;
  DataBufferPool buffers_;
  TimerQueue worker_{"bl-scsi"};  // what may wait for a disk: saving reservations
  SlowLane slow_lane_;            // and requests of the units' tasks
  mutable std::mutex mutex_;
  std::map<std::string, std::weak_ptr<LogicalUnit>, std::less<>> units_;
  std::uint64_t listener_ = 0;  ///< of the registry's events
  Sanitizers sanitizers_;       // ends first
};

/// A logical unit: an SBC-3 direct access block device over a Device. The transport does not call
/// it: it calls the Nexus, which finds the unit by LUN.
class LogicalUnit {
 public:
  ~LogicalUnit();
  LogicalUnit(const LogicalUnit&) = delete;
  LogicalUnit& operator=(const LogicalUnit&) = delete;

  const UnitOptions& options() const noexcept;
  UnitInfo info() const;

  /// For the unit's own files.
  UnitState& state() const noexcept { return *state_; }

 private:
  friend class LogicalUnits;
  explicit LogicalUnit(std::unique_ptr<UnitState> state);
  const std::unique_ptr<UnitState> state_;
};

}  // namespace blockloom
