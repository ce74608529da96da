#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "server/base/error.hpp"
#include "server/target/mirror/types.hpp"

/// The mirror's durable record: which regions may differ between legs (dirty), which legs miss
/// what (stale), and who the legs are. Pure: it makes and reads bytes; others do the I/O.
///
/// On the medium it is a row of pages of 4 KiB, each with two generations of two copies:
///
///     page p at p * 16384:  [generation 0, copy a][0 b][generation 1, copy a][1 b]
///
/// Page 0 is the header, the others hold 3200 regions each. A commit writes both copies of the
/// generation that is not the newest, so that a torn write leaves the other generation whole, and
/// damage to one copy (a bit, a sector) is healed from the other. Every page is written when the
/// log is made: a page without one valid copy is damage, never "all clean".
/// A page carries magic, the log's uuid, its own number, a version and a CRC32C.
namespace blockloom::mirror {

using Uuid = std::array<std::uint8_t, 16>;

inline constexpr std::uint32_t log_page_size = 4096;
inline constexpr std::uint32_t log_regions_per_page = 3200;
inline constexpr std::uint64_t max_regions = std::uint64_t{1} << 24;

/// What the record says of a leg as a whole.
enum class Role : std::uint8_t {
  absent = 0,  ///< no leg, or removed: what it holds does not count
  member = 1,  ///< its stale bits tell
};

struct LogIdentity {
  Uuid mirror{};                  ///< of the mirror: a log of another one is refused
  std::uint64_t size = 0;         ///< bytes of the device
  std::uint64_t region_size = 0;  ///< bytes
  std::uint8_t copy = 0;          ///< which copy of the record this is,
  std::uint8_t copies = 1;        ///< and of how many (B3)
  std::array<Role, max_legs> roles{};
  std::array<Uuid, max_legs> legs{};  ///< each leg's own identity; zeroes: it has none
};

/// Reads the medium, for RegionLog::load. Short reads are errors.
class LogSource {
 public:
  virtual ~LogSource() = default;
  virtual Result<void> read(std::uint64_t offset, std::span<std::byte> out) = 0;
};

/// One write of a commit. The bytes stay valid until the next call of next_batch().
struct LogWrite {
  std::uint64_t offset = 0;
  std::span<const std::byte> bytes;
};

/// Owned by the machine, under its lock.
class RegionLog {
 public:
  /// A new record: clean. With `sync`, every present leg but the first is STALE everywhere (the
  /// first one's data counts); without, they are taken to be equal (dm's "nosync").
  /// Fails when a size is not what LogIdentity says, or there would be more than max_regions.
  static Result<RegionLog> create(const LogIdentity& identity, bool sync);

  /// What the medium holds. Fails with Errc::corrupt when it is damaged beyond its copies, and
  /// with Errc::invalid, naming what differs, when it is no log, of another version, or of another
  /// mirror, size or region size than `expect` (whose copy, roles and legs are not looked at).
  static Result<RegionLog> load(LogSource& source, const LogIdentity& expect);

  /// Whether sizes are possible: Errc::invalid or Errc::limit if not.
  static Result<void> check(const LogIdentity& identity);

  /// Bytes on the medium for a device of that many regions.
  static std::uint64_t bytes_needed(std::uint64_t regions) noexcept;
  static std::uint64_t regions_of(const LogIdentity& identity) noexcept;

  RegionLog(RegionLog&&) noexcept;
  RegionLog& operator=(RegionLog&&) noexcept;
  ~RegionLog();

  const LogIdentity& identity() const noexcept { return identity_; }
  std::uint64_t regions() const noexcept { return regions_; }
  std::uint64_t epoch() const noexcept { return epoch_; }
  /// The number of the newest commit; of two copies of one record the higher (epoch, commit) is
  /// the newer.
  std::uint64_t sequence() const noexcept { return completed_; }
  /// It was closed by stop(): nothing was in flight, all is durable.
  bool closed() const noexcept { return closed_; }
  LegMask held() const noexcept { return held_; }
  /// How many damaged copies load() healed from the other one, and how many torn writes it found.
  unsigned healed() const noexcept { return healed_; }
  unsigned torn() const noexcept { return torn_; }

  // What the record is to say. A change is durable once completed() has reached the ticket.
  using Ticket = std::uint64_t;
  Ticket set_dirty(std::uint64_t region, bool dirty);
  Ticket set_stale(std::uint64_t region, LegMask legs, bool stale);
  Ticket set_stale_everywhere(unsigned leg, bool stale);
  Ticket set_epoch(std::uint64_t epoch);
  Ticket set_role(unsigned leg, Role role, const Uuid& identity);
  Ticket set_closed(bool closed);
  /// A person failed this leg: it is to stay out of service also after a restart.
  Ticket set_held(unsigned leg, bool held);
  /// All pages again: for a medium that is new, or another copy.
  Ticket rewrite();

  bool dirty(std::uint64_t region) const noexcept;
  LegMask stale(std::uint64_t region) const noexcept;
  std::uint64_t dirty_count() const noexcept { return counts_[0]; }
  std::uint64_t stale_count(unsigned leg) const noexcept { return counts_[1 + leg]; }
  /// Regions that are STALE on at least one of `legs`.
  std::uint64_t stale_on_any(LegMask legs) const noexcept;
  /// The first region ≥ `from` that is dirty, or STALE on one of `legs`; regions() if none. Skips
  /// clean pages whole.
  std::uint64_t next_dirty(std::uint64_t from) const noexcept;
  std::uint64_t next_stale(LegMask legs, std::uint64_t from) const noexcept;

  // Group commit: what is marked while one commit runs goes together into the next.
  bool pending() const noexcept { return !pending_.empty(); }
  bool committing() const noexcept { return committing_; }
  Ticket completed() const noexcept { return completed_; }
  /// The ticket of the newest change; nothing is pending or running when completed() is there.
  Ticket newest() const noexcept { return committing_ || pending() ? next_ticket() : completed_; }
  /// Begins a commit of all that is pending.
  void begin_commit();
  /// Fills `out` with the next writes of the running commit, at most 64 pages; false: there are no
  /// more. All writes of all batches go to the medium, in any order, and then one flush of it.
  bool next_batch(std::vector<LogWrite>& out);
  /// A record kept in several places: turns the bytes of a write of page 0 into those for the
  /// place `copy` (its own identity). Other pages are the same everywhere.
  static void for_copy(std::span<std::byte> header_page, std::uint8_t copy) noexcept;
  /// After the flush, or when a write failed; then all of it is pending again. With several copies
  /// it is ok when a majority of all took it (B3).
  void end_commit(bool ok);

 private:
  struct Storage;
  RegionLog();
  Ticket next_ticket() const noexcept { return number_ + 1; }
  Result<void> shape(const LogIdentity& identity);
  Ticket touch(std::uint32_t page);
  Ticket change(std::uint64_t region, unsigned plane, bool value);
  void encode(std::uint32_t page, std::byte* out) const;
  Result<void> take_page(std::uint32_t page, std::span<const std::byte> row,
                         const LogIdentity& expect);
  Result<void> take_header(const std::byte* page, const LogIdentity& expect);
  Result<void> take_regions(std::uint32_t page, const std::byte* bytes);

  LogIdentity identity_;
  std::uint64_t regions_ = 0;
  std::uint64_t epoch_ = 0;
  bool closed_ = false;
  LegMask held_ = 0;
  unsigned healed_ = 0;
  unsigned torn_ = 0;
  std::array<std::uint64_t, 1 + max_legs> counts_{};
  Ticket completed_ = 0;
  Ticket number_ = 0;  ///< of the newest commit that was begun; one that failed is not repeated
  bool committing_ = false;
  std::vector<std::uint32_t> pending_;  ///< pages, each once
  std::vector<std::uint32_t> running_;  ///< of the commit under way
  std::size_t next_running_ = 0;
  std::unique_ptr<Storage> storage_;
};

/// One copy of the record as an assembly found it.
struct RecordSeen {
  std::uint64_t epoch = 0;
  std::uint64_t sequence = 0;
};

/// B3, first half: which copy is the newest, and is it sure to be? It is when a majority of all
/// `copies` was found, since a commit counts only when a majority of them took it.
struct NewestRecord {
  std::size_t index = 0;
  bool proven = false;
};
NewestRecord newest_record(std::span<const RecordSeen> seen, unsigned copies) noexcept;

}  // namespace blockloom::mirror
