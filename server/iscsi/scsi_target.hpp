#pragma once

#include <array>
#include <cstdint>
#include <map>
#include <memory>
#include <mutex>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "server/base/error.hpp"
#include "server/iscsi/logical_unit.hpp"
#include "server/iscsi/reservations.hpp"
#include "server/iscsi/scsi_task.hpp"

namespace blockloom {

class ScsiTarget;
struct LunEntry;

/// Both ends of a session, as persistent reservations and their reports know them (SPC-4 7.6.4,
/// RFC 7143 4.4.1).
struct NexusId {
  std::string initiator;  ///< the iSCSI name, normalized
  std::array<std::uint8_t, 6> isid{};
  std::uint16_t portal_group = 1;  ///< the tag; also the relative target port identifier
};

/// What a session hears of its logical units. Called on any thread, under a lock: it posts.
class NexusListener {
 public:
  virtual ~NexusListener() = default;
  /// A unit attention waits for the next command to this LUN (its eight bytes). The transport may
  /// send it at once as an async message, event 0 (RFC 7143 11.9), with this sense data.
  virtual void unit_attention(std::uint64_t lun, std::span<const std::uint8_t> sense) noexcept = 0;
};

/// An I_T nexus: one session (SAM-5 4.5). Made by ScsiTarget::attach() at login; the transport
/// ends it with TaskFunction::nexus_loss, and only then lets go of it. Members may be called from
/// any thread, but not two at a time for the same task.
class Nexus : public std::enable_shared_from_this<Nexus> {
 public:
  ~Nexus();
  Nexus(const Nexus&) = delete;
  Nexus& operator=(const Nexus&) = delete;

  const NexusId& id() const noexcept { return id_; }
  ScsiTarget& target() const noexcept { return *target_; }
  NexusListener* listener() const noexcept { return listener_; }
  /// Both ends, as reservations know them.
  const NexusPorts& ports() const noexcept { return ports_; }
  /// The LUNs that it sees now, ascending.
  std::vector<std::shared_ptr<NexusLun>> luns() const;

  /// Takes a command in: LUN, unit attention, reservation, CDB, range are checked here, before
  /// any data is asked for. The task is in its task set from now on.
  TaskStep begin(ScsiTask& task) noexcept;
  /// All data_out_wanted bytes are in task.data. ended or running.
  TaskStep proceed(ScsiTask& task) noexcept;
  /// After `again`. ended or running.
  TaskStep run_again(ScsiTask& task) noexcept;
  /// Instead of proceed(): the data will not come (aborted, or the connection is gone). The task
  /// has ended, without a response.
  void abandon(ScsiTask& task) noexcept;

  Submit manage(TaskManagement& management) noexcept;

 private:
  friend class ScsiTarget;
  Nexus(std::shared_ptr<ScsiTarget> target, NexusId id, NexusListener* listener);
  std::shared_ptr<NexusLun> find(std::uint64_t lun) const noexcept;
  void set_luns(const std::vector<LunEntry>& luns, scsi::Asc why);

  const std::shared_ptr<ScsiTarget> target_;
  const NexusId id_;
  const NexusPorts ports_;
  NexusListener* const listener_;
  mutable std::mutex mutex_;                     // never held with a unit's
  std::vector<std::shared_ptr<NexusLun>> luns_;  // by LUN
  std::shared_ptr<NexusLun> no_lun_;             // what answers where there is no LUN
  bool lost_ = false;
};

/// One LUN of a target: number, and unit.
struct LunEntry {
  std::uint16_t lun = 0;  ///< 0 to 16,383 (flat space addressing from 256 on)
  std::shared_ptr<LogicalUnit> unit;
};

/// A SCSI target device with one target port: an iSCSI name, its LUNs, its nexuses. Any thread.
class ScsiTarget : public std::enable_shared_from_this<ScsiTarget> {
 public:
  static std::shared_ptr<ScsiTarget> create(std::string name, std::shared_ptr<LogicalUnits> units);
  ~ScsiTarget();

  const std::string& name() const noexcept { return name_; }
  LogicalUnits& units() const noexcept { return *units_; }

  /// Replaces the LUN map. Every nexus hears REPORTED LUNS DATA HAS CHANGED; tasks to a LUN that
  /// went are aborted as by a reset.
  void set_luns(std::vector<LunEntry> luns);
  std::vector<LunEntry> luns() const;

  /// A session has logged in. Each of its LUNs has a unit attention 29/00 (power on) waiting.
  /// The transport ends an old nexus of the same identity first (session reinstatement).
  /// `listener` may be null, and outlives the nexus's loss.
  std::shared_ptr<Nexus> attach(NexusId id, NexusListener* listener);

 private:
  friend class Nexus;
  ScsiTarget(std::string name, std::shared_ptr<LogicalUnits> units);

  const std::string name_;
  const std::shared_ptr<LogicalUnits> units_;
  mutable std::mutex mutex_;  // taken before a nexus's
  std::vector<LunEntry> luns_;
  std::vector<std::weak_ptr<Nexus>> nexuses_;
};

}  // namespace blockloom
