#pragma once

#include <atomic>
#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <mutex>
#include <string>
#include <string_view>
#include <vector>

#include "proto/iscsi/login.hpp"
#include "server/base/clock.hpp"
#include "server/base/error.hpp"
#include "server/device/registry.hpp"
#include "server/iscsi/logical_unit.hpp"
#include "server/iscsi/options.hpp"
#include "server/iscsi/scsi_target.hpp"

namespace blockloom::iscsi {

class Connection;

/// Where a connection comes from, and where it came to.
struct Peer {
  Address address{}, local{};
  std::string text;        ///< "192.0.2.7:51234"
  std::string local_text;  ///< "192.0.2.1:3260"
  bool v6 = false;         ///< the socket's family
};

/// A session, for `iscsi sessions`.
struct SessionInfo {
  std::uint16_t tsih = 0;
  std::string initiator, initiator_alias, target, peer, portal, chap_user;
  std::uint64_t isid = 0;
  double connected_s = 0;
  bool header_digest = false, data_digest = false;
  std::uint64_t commands = 0, read_bytes = 0, written_bytes = 0, rejects = 0;
  std::uint32_t in_flight = 0;
};

struct LunInfo {
  std::uint16_t lun = 0;
  std::string device;
  std::string failure;  ///< why it is not served; empty: it is
  UnitOptions options;
  UnitInfo unit;
};

struct TargetInfo {
  std::string name, alias;
  bool all_devices = false, chap = false;
  std::size_t sessions = 0;
  std::vector<LunInfo> luns;
};

/// An iSCSI node: its targets, its sessions, and what is allowed. Any thread.
class Node {
 public:
  /// `idle` is called when the last session of a target ended: refresh() is due, elsewhere.
  Node(Registry& registry, const IscsiOptions& options, std::function<void()> idle = {});
  ~Node();

  /// Takes other targets, access and limits over. Opens units, so it may wait for a disk; one
  /// call at a time. Sessions stay, but those whose target went, or who are not allowed any more.
  void apply(const IscsiOptions& options);
  /// Devices came, went or grew: tries again what could not be opened, and maps all devices where
  /// a target wants that.
  void refresh();

  IscsiOptions options() const;
  std::shared_ptr<const IscsiOptions> snapshot() const;

  // --- of connections ------------------------------------------------------------------------

  /// Whether one more may be served; count_out() for each that was counted in.
  bool count_in() noexcept;
  void count_out() noexcept;
  void logged_in() noexcept { --unauthenticated_; }  ///< the connection is one no longer
  void not_logged_in() noexcept { --unauthenticated_; }

  /// Warns of a login that was refused; of many at once, only of some.
  void warn_refused(const std::string& what);

  LoginVerdict judge(const LoginIdentity& identity, const Peer& peer);
  void send_targets(std::string_view which, std::string_view initiator, const Peer& peer,
                    TextWriter& answer) const;

  struct Claim {
    enum class Kind : std::uint8_t { granted, waiting, refused } kind = Kind::refused;
    LoginStatus status = LoginStatus::success;
    std::uint16_t tsih = 0;
    std::shared_ptr<ScsiTarget> target;  ///< null for discovery
  };
  /// A login has succeeded: the session begins, unless one of the same identity has to end first.
  /// That one is told to, and then the connection's claim_again() is called.
  Claim claim(const std::shared_ptr<Connection>& connection);
  /// The session is over, and nothing of it is left.
  void release(std::uint16_t tsih);

  // --- of the control socket -----------------------------------------------------------------

  std::vector<SessionInfo> sessions() const;
  std::vector<TargetInfo> targets() const;
  /// Ends sessions: by TSIH, or all of an initiator's (or of a target's), or all. How many.
  std::size_t kick(std::uint16_t tsih, std::string_view initiator, std::string_view target,
                   std::string_view why);
  LogicalUnits& units() noexcept { return *units_; }

 private:
  struct Entry {
    std::shared_ptr<Connection> connection;
    LoginIdentity identity;
    std::weak_ptr<Connection> waiting;  ///< wants the same identity
    bool ending = false;
  };
  struct Target {
    std::shared_ptr<ScsiTarget> scsi;
    std::map<std::uint16_t, LunInfo> luns;
    std::size_t sessions = 0;  ///< and logins that want to become one
  };

  std::vector<LunOptions> wanted_luns(const TargetOptions& target) const;
  void map_luns(const TargetOptions& target);
  LunInfo open_lun(const TargetOptions& target, const LunOptions& lun, bool resting,
                   std::vector<LunEntry>& entries);
  Claim claim_locked(const std::shared_ptr<Connection>& connection);
  void end_locked(Entry& entry, std::string_view why);
  const TargetOptions* find_target(const IscsiOptions& options, std::string_view name) const;

  Registry& registry_;
  const std::shared_ptr<LogicalUnits> units_;
  const std::function<void()> idle_;
  std::atomic<std::uint32_t> connections_{0}, unauthenticated_{0};

  std::atomic<TimePoint> last_warning_{};
  std::atomic<std::uint64_t> unwarned_{0};

  std::mutex applying_;  // one change at a time; taken before mutex_
  mutable std::mutex mutex_;
  std::shared_ptr<const IscsiOptions> options_;
  std::map<std::string, Target, std::less<>> targets_;
  std::map<std::uint16_t, Entry> sessions_;
  std::uint16_t last_tsih_ = 0;
};

}  // namespace blockloom::iscsi
