#pragma once

#include <array>
#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include <sys/socket.h>

#include "proto/iscsi/chap.hpp"
#include "proto/iscsi/keys.hpp"
#include "server/base/clock.hpp"
#include "server/base/error.hpp"
#include "server/iscsi/logical_unit.hpp"

namespace blockloom::iscsi {

inline constexpr std::uint16_t iscsi_port = 3260;
/// The target of a configuration that names none: all devices, by their minor numbers.
inline constexpr std::string_view default_target = "iqn.2026-01.org.blockloom:devices";

/// An IPv4 or IPv6 address; IPv4 is mapped into IPv6.
using Address = std::array<std::uint8_t, 16>;
Address address_of(const sockaddr_storage& from) noexcept;
bool is_loopback(const Address& address) noexcept;
bool is_wildcard(const Address& address) noexcept;

/// "192.0.2.0/24", "2001:db8::1": whoever has the same leading bits.
struct AddressRange {
  Address address{};
  unsigned prefix = 128;
  bool holds(const Address& other) const noexcept;
  bool operator==(const AddressRange&) const = default;
};
Result<AddressRange> parse_address_range(std::string_view text);

/// Where initiators connect.
struct PortalOptions {
  std::string host;  ///< a numeric address; "0.0.0.0" and "::" for any
  std::uint16_t port = iscsi_port;
  std::string advertise;  ///< "HOST:PORT" that SendTargets tells instead; empty: the address
  bool insecure = false;  ///< public without CHAP or an address list, and that is meant
  bool operator==(const PortalOptions&) const = default;
};
/// "127.0.0.1", "[::1]:3260", "*:3261", "localhost" (which is 127.0.0.1).
Result<PortalOptions> parse_portal(std::string_view text);
/// "127.0.0.1:3260", "[::1]:3260".
std::string to_string(const PortalOptions& portal);
/// Somebody outside this machine may connect.
bool is_public(const PortalOptions& portal);
/// Ready for bind(2).
socklen_t to_sockaddr(const PortalOptions& portal, sockaddr_storage& out) noexcept;

/// Who may see a target and log in to it. Empty lists allow everybody.
struct Access {
  std::vector<std::string> initiators;  ///< names; one that ends with '*' is a prefix
  std::vector<AddressRange> addresses;
  bool allows(std::string_view initiator, const Address& address) const noexcept;
  bool operator==(const Access&) const = default;
};

struct LunOptions {
  std::uint16_t lun = 0;
  UnitOptions unit;
  bool operator==(const LunOptions&) const = default;
};

struct TargetOptions {
  std::string name, alias;
  bool all_devices = false;  ///< every device is a LUN, by its minor number
  std::vector<LunOptions> luns;
  Access access;
  std::string chap_file;  ///< where chap's secrets were read
  ChapSettings chap;
  Offers offers;
  std::string redirect;  ///< "HOST:PORT": logins are sent there; empty: served here
  bool operator==(const TargetOptions&) const = default;
};

struct IscsiLimits {
  std::uint32_t connections = 1024;
  std::uint32_t sessions = 1024;
  std::uint32_t unauthenticated = 128;         ///< connections that have not logged in yet
  std::uint32_t queue_depth = 128;             ///< commands of one session
  std::uint64_t session_bytes = 128ULL << 20;  ///< data of one session's commands
  std::uint64_t total_bytes = 512ULL << 20;    ///< data of all commands
  Duration login_timeout = std::chrono::seconds(15);
  Duration ping_interval = std::chrono::seconds(30);  ///< of silence, until the initiator is asked
  Duration ping_timeout = std::chrono::seconds(15);   ///< for its answer
  Duration send_timeout = std::chrono::seconds(30);   ///< without a byte taken
  bool operator==(const IscsiLimits&) const = default;
};

/// What the iSCSI target serves; the configuration's [iscsi] and [[iscsi.target]].
struct IscsiOptions {
  bool enabled = false;
  std::vector<PortalOptions> portals;  ///< empty: 127.0.0.1:3260
  unsigned threads = 0;                ///< 0: one a core, at most four
  std::string discovery_chap_file;
  ChapSettings discovery_chap;
  std::vector<TargetOptions> targets;  ///< empty: default_target with all devices
  IscsiLimits limits;
  std::string state_folder;  ///< for persistent reservations; empty: APTPL is refused
  bool insecure = false;
  bool operator==(const IscsiOptions&) const = default;
};

/// Portals and targets as they are served: with the defaults written out.
IscsiOptions with_defaults(IscsiOptions options);
/// What is served: with the defaults, or, where it is not enabled, no portal and no target.
IscsiOptions served(IscsiOptions options);

}  // namespace blockloom::iscsi
