#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "proto/scsi/command.hpp"
#include "proto/scsi/reservation.hpp"
#include "proto/scsi/status.hpp"
#include "server/base/error.hpp"

namespace blockloom {

/// Both ends of a nexus, as registrations know them.
struct NexusPorts {
  scsi::TransportId initiator;  ///< with its ISID
  std::string target;           ///< iSCSI name
  std::uint16_t port = 1;       ///< relative target port: the portal group tag

  bool operator==(const NexusPorts&) const = default;
};

/// Persistent reservations of one logical unit (SPC-4 5.13): a value, without locks or clocks.
class Reservations {
 public:
  static constexpr std::size_t most_registrations = 1024;

  struct Registration {
    NexusPorts ports;
    bool all_ports = false;  ///< ALL_TG_PT: the initiator through whichever port
    std::uint64_t key = 0;

    bool operator==(const Registration&) const = default;
    bool covers(const NexusPorts& other) const {
      return ports.initiator == other.initiator &&
             (all_ports || (ports.target == other.target && ports.port == other.port));
    }
  };

  /// What a PERSISTENT RESERVE OUT did beside changing this value.
  struct Effect {
    struct Attention {
      Registration to;
      scsi::Asc why;
    };
    scsi::Status status = scsi::Status::good;  ///< check_condition: see sense
    std::optional<scsi::Sense> sense;
    std::vector<Attention> attentions;
    std::vector<Registration> abort;  ///< PREEMPT AND ABORT: the tasks of these end
    bool changed = false;             ///< there is something to make durable
  };

  /// Which classes of commands a nexus is kept out of (scsi::Access).
  struct KeptOut {
    bool read = false;
    bool write = false;
    bool registrants = false;
  };

  /// The service actions but REGISTER AND MOVE. `scope_and_type` is byte 2 of the CDB.
  Effect out(scsi::ReserveOut action, std::uint8_t scope_and_type, const NexusPorts& from,
             const scsi::ReserveOutList& list);
  Effect move(const NexusPorts& from, const scsi::MoveList& list);

  KeptOut kept_out(const NexusPorts& nexus) const;
  bool empty() const noexcept { return registrations_.empty(); }
  bool registered(const NexusPorts& nexus) const { return find(nexus) != nullptr; }
  bool aptpl() const noexcept { return aptpl_; }

  /// For PERSISTENT RESERVE IN.
  scsi::ReservationRecord record() const;
  const std::vector<Registration>& registrations() const noexcept { return registrations_; }
  bool is_holder(const Registration& registration) const;

  /// Lines of text that keep it over a restart (only what APTPL keeps: the generation starts at 0
  /// again), and back. Any text is safe; Errc::corrupt says what was wrong.
  std::string save() const;
  static Result<Reservations> load(std::string_view text);

  bool operator==(const Reservations&) const = default;

 private:
  const Registration* find(const NexusPorts& nexus) const;
  Registration* find(const NexusPorts& nexus) {
    return const_cast<Registration*>(std::as_const(*this).find(nexus));
  }
  void register_key(Effect& effect, Registration* own, const NexusPorts& from,
                    const scsi::ReserveOutList& list);
  void reserve(Effect& effect, const Registration& own, scsi::ReservationType type);
  void release(Effect& effect, const Registration& own, std::uint8_t scope_and_type);
  void clear(Effect& effect, const Registration& own);
  void preempt(Effect& effect, const Registration& own, std::uint64_t key,
               scsi::ReservationType type, bool abort);
  void remove_by_key(Effect& effect, const Registration& own, std::optional<std::uint64_t> key,
                     bool abort);
  void unregister(Effect& effect, Registration own);
  void tell_released(Effect& effect, const Registration& but) const;

  std::vector<Registration> registrations_;
  std::optional<scsi::ReservationType> type_;
  std::optional<Registration> holder_;  // of a type that has one
  std::uint32_t generation_ = 0;
  bool aptpl_ = false;
};

}  // namespace blockloom
