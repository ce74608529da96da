#pragma once

#include <array>
#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "proto/scsi/bytes.hpp"
#include "proto/scsi/sense.hpp"

namespace blockloom::scsi {

/// Types of persistent reservations (SPC-4 6.15.3.3).
enum class ReservationType : std::uint8_t {
  write_exclusive = 1,
  exclusive_access = 3,
  write_exclusive_registrants = 5,
  exclusive_access_registrants = 6,
  write_exclusive_all = 7,
  exclusive_access_all = 8,
};
std::optional<ReservationType> reservation_type(unsigned code) noexcept;
/// In words, as SPC-4 names them: "Write Exclusive – Registrants Only".
const char* to_string(ReservationType type) noexcept;
constexpr bool registrants_only(ReservationType type) noexcept {
  return static_cast<std::uint8_t>(type) >= 5;
}
constexpr bool all_registrants(ReservationType type) noexcept {
  return static_cast<std::uint8_t>(type) >= 7;
}
constexpr bool write_exclusive(ReservationType type) noexcept {
  return (static_cast<std::uint8_t>(type) & 1) != 0 && type != ReservationType::exclusive_access;
}

/// Service actions of PERSISTENT RESERVE OUT.
enum class ReserveOut : std::uint8_t {
  register_key = 0,
  reserve = 1,
  release = 2,
  clear = 3,
  preempt = 4,
  preempt_and_abort = 5,
  register_and_ignore = 6,
  register_and_move = 7,
};

/// An iSCSI initiator port as a TransportID names it (SPC-4 7.6.4.6). Without an ISID it is the
/// device: all its ports.
struct TransportId {
  std::string name;
  std::optional<std::array<std::uint8_t, 6>> isid;

  bool operator==(const TransportId&) const = default;
};

/// "NAME,i,0xISID".
std::string to_string(const TransportId& id);
/// At least 24 bytes, a multiple of four.
void append_transport_id(Output& out, const TransportId& id);
/// One TransportID from the front of `input`, and how long it is. Nothing for another protocol,
/// or a malformed one.
struct ParsedTransportId {
  TransportId id;
  std::size_t size = 0;
};
std::optional<ParsedTransportId> parse_transport_id(Input input);

/// The parameter list of PERSISTENT RESERVE OUT but REGISTER AND MOVE (SPC-4 6.16.3).
struct ReserveOutList {
  std::uint64_t key = 0;
  std::uint64_t action_key = 0;
  bool all_ports = false;  ///< ALL_TG_PT
  bool aptpl = false;
  std::vector<TransportId> others;  ///< SPEC_I_PT
};
/// The parameter list of REGISTER AND MOVE (SPC-4 6.16.4).
struct MoveList {
  std::uint64_t key = 0;
  std::uint64_t action_key = 0;
  bool unregister = false;
  bool aptpl = false;
  std::uint16_t relative_port = 0;
  TransportId to;
};
/// A parsed list, or what is wrong with it. Any bytes are safe.
template <class List>
struct Parsed {
  List list;
  std::optional<Sense> sense;
};
Parsed<ReserveOutList> parse_reserve_out(Input input, ReserveOut action);
Parsed<MoveList> parse_move(Input input);

/// What PERSISTENT RESERVE IN reports.
struct RegistrationRecord {
  TransportId initiator;
  std::uint16_t relative_port = 1;
  bool all_ports = false;  ///< ALL_TG_PT: whichever port it comes through
  std::uint64_t key = 0;
  bool holder = false;
};
struct ReservationRecord {
  std::uint32_t generation = 0;
  std::optional<ReservationType> type;  ///< of the reservation, when there is one
  std::uint64_t key = 0;                ///< its holder's; 0 for "all registrants"
  std::vector<RegistrationRecord> registrations;
};
Output read_keys(const ReservationRecord& record);
Output read_reservation(const ReservationRecord& record);
Output report_capabilities(bool aptpl_possible, bool aptpl_active);
Output read_full_status(const ReservationRecord& record);

}  // namespace blockloom::scsi
