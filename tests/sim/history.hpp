#pragma once

#include <cstdint>
#include <vector>

namespace blockloom::sim {

using Time = std::uint64_t;
using Value = std::uint32_t;  ///< each write has its own; 0 is what was there first

/// What one block may hold, as its clients know it (I1). Every value that was ever written has an
/// entry; it is alive while a read that begins now may return it.
///
/// A write that was answered `ok` ends the life of every value whose own write had ended before
/// this one began; those that overlapped it in time may stand after it, so they stay. A write that
/// failed, or that a crash cut off, may show until a later one succeeds. A read that returned a
/// value ends the life of all others whose writes had ended before the read began: once read, it
/// never goes back.
class BlockHistory {
 public:
  BlockHistory() { entries_.push_back({}); }

  void write_begins(Value value, Time now) {
    Entry e;
    e.value = value;
    e.begin = now;
    e.end = never;
    entries_.push_back(e);
  }
  void write_ends(Value value, Time now, bool ok);
  /// False: the value was not legal at any moment between the read's begin and now.
  bool read_ends(Value value, Time begin, Time now);
  /// The originator's flush ended ok: what was superseded before it began will not come back.
  void flushed(Time begin);
  /// A leg lost its cache where that may lose data (the protocol's known limit): what no flush has
  /// put to rest may show again.
  void lossy(Time now);
  bool may_hold(Value value) const;

 private:
  static constexpr Time never = ~Time{0};
  struct Entry {
    Value value = 0;
    Time begin = 0;
    Time end = 0;        ///< answered, or cut off
    Time dead = never;   ///< not legal for reads that begin later
    bool gone = false;   ///< dead, and flushed over
    bool shaky = false;  ///< was under way when a cache was lost: `ok` does not make it stay
  };
  void kill(Entry& e, Time now) {
    if (e.dead > now) e.dead = now;
  }
  std::vector<Entry> entries_;
  Time loss_ = 0;  ///< the last one
};

}  // namespace blockloom::sim
