#pragma once

#include <cstdint>
#include <ctime>
#include <functional>
#include <map>
#include <memory>
#include <mutex>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "server/base/clock.hpp"
#include "server/base/error.hpp"
#include "server/dump/back_end.hpp"
#include "server/dump/record.hpp"

namespace blockloom::dump {

/// 0 everywhere: no bound.
struct Quota {
  std::uint64_t dump = std::uint64_t{1} << 40;  ///< bytes of one dump, and its highest offset
  std::uint64_t host = 0;                       ///< of all dumps of one host
  std::uint64_t total = 0;                      ///< of all dumps
  std::uint64_t keep_free = 0;                  ///< left free in the store's file system
  bool operator==(const Quota&) const = default;
};

/// What goes by itself; 0: nothing does. Never a pinned dump, never a host's newest complete one,
/// never one that is being received.
struct Retention {
  std::size_t count = 0;    ///< dumps of one host
  Duration age{};           ///< since it ended
  std::uint64_t bytes = 0;  ///< of all dumps
  bool operator==(const Retention&) const = default;
};

/// Seconds since 1970 of the wall clock.
double wall_time() noexcept;
/// Such a time as gmtime(3) has it.
std::tm utc_of(double wall) noexcept;

/// The dumps of one back end: their records, quotas and retention. Any thread; calls may wait for
/// the disk, so none of them on the network's thread but those marked "memory only".
class Store {
 public:
  Store(std::unique_ptr<BackEnd> back_end, Quota quota, Retention retention);
  Store(const Store&) = delete;
  Store& operator=(const Store&) = delete;

  /// Reads the records. A dump whose record is lost or broken is kept, and listed as incomplete.
  Result<void> load();

  /// May a dump of this host begin? Errc::no_space says which bound is reached.
  Result<void> admit(std::string_view host);
  /// Makes the place of a new dump: gives it its id, and its first record is durable.
  Result<void> begin(Record& record);
  /// `bytes` more are to be written for this dump. Errc::no_space: nothing was charged. `end`: the
  /// highest offset of them.
  Result<void> charge(const DumpId& id, std::uint64_t bytes, std::uint64_t end);

  void update(const Record& record);        ///< memory only
  Result<void> save(const Record& record);  ///< and on disk
  /// Changes the record as it is now, and saves it.
  Result<Record> amend(const DumpId& id, const std::function<void(Record&)>& change);
  Result<void> remove(const DumpId& id, bool even_pinned = false);
  Result<Record> pin(const DumpId& id, bool pinned);

  std::vector<Record> list() const;  ///< memory only; oldest first
  std::optional<Record> find(const DumpId& id) const;
  std::optional<Record> find_session(std::string_view session) const;  ///< of a stream
  /// Which dump a word names: an id, a unique beginning of one, or "HOST" or "HOST/latest".
  Result<Record> resolve(std::string_view word) const;

  /// Removes what retention says. Gives what went.
  std::vector<DumpId> retain();

  /// A dump may not be removed while somebody reads it (an export, a verify).
  void hold(const DumpId& id);
  void let_go(const DumpId& id);

  BackEnd& back_end() noexcept { return *back_end_; }
  Quota quota() const;
  void set_limits(Quota quota, Retention retention);
  std::uint64_t total_bytes() const;

 private:
  struct Entry {
    Record record;
    std::uint64_t charged = 0;  // what it counts for
    unsigned holds = 0;
  };
  using Entries = std::map<DumpId, Entry>;

  Result<void> write_record(const DumpId& id);
  Record recovered(const DumpId& id, std::string_view why) const;
  Result<void> check_free(std::uint64_t bytes);
  std::vector<DumpId> doomed_locked(double now) const;
  bool is_newest_complete_locked(const Record& record) const;

  const std::unique_ptr<BackEnd> back_end_;
  std::mutex saving_;         // one record is written at a time; taken before mutex_
  mutable std::mutex mutex_;  // protects what follows; never held over I/O
  Quota quota_;
  Retention retention_;
  Entries entries_;
  std::map<std::string, std::uint64_t, std::less<>> host_bytes_;
  std::uint64_t total_bytes_ = 0;
  std::uint64_t unchecked_ = 0;  // charged since the free space was looked at
  TimePoint checked_at_{};
};

}  // namespace blockloom::dump
