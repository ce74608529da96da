#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "server/base/clock.hpp"
#include "server/base/error.hpp"
#include "server/base/units.hpp"
#include "server/leg/leg.hpp"

namespace blockloom {

/// What map() did with an Io (device-mapper's DM_MAPIO_*).
enum class Map : std::uint8_t {
  remapped,  ///< io.leg, io.offset and io.length now say where; the core submits it
  done,      ///< finished here; io.status is set
  pending,   ///< the target keeps it and runs io.complete later, exactly once
};

/// A target maps a run of a device's sectors to legs (dm's struct dm_target). The core has
/// validated and split: an Io never crosses the target's end, nor a chunk() boundary for read,
/// write, cache and extents. Hooks run one at a time, under the device's control lock; map() on
/// any thread, many at once, but never while suspended. status(), table(), message(),
/// release_held() and held() may run on any thread at any time.
class Target {
 public:
  virtual ~Target() = default;

  virtual std::string_view type() const noexcept = 0;

  virtual Map map(Io& io) noexcept = 0;

  /// Where all that map() does with any Io is to add `offset` and hand it to `leg`: the core then
  /// does that without the call. Fixed from creation on.
  struct Direct {
    Leg* leg = nullptr;  ///< null: map() decides
    Bytes offset;
  };
  virtual Direct direct() const noexcept { return {}; }

  /// Read, write, cache and extents are split at multiples of this from the target's start;
  /// 0: not at all.
  virtual Bytes chunk() const noexcept { return Bytes(0); }

  /// True: trim and zero are split at chunk() too, and come in one copy.
  virtual bool chunks_all() const noexcept { return false; }

  /// How many copies of a trim or zero the core makes (Io::copy tells which), each with the
  /// whole range that lies in the target: a stripe set asks for one per stripe, and maps each to
  /// that stripe's own part.
  virtual std::uint32_t copies() const noexcept { return 1; }

  /// False: the core flushes each distinct leg of the table once. True: a flush comes through
  /// map() as well, copies() times, and this target's legs() are not flushed by the core.
  virtual bool maps_flush() const noexcept { return false; }

  /// True when map() never returns pending.
  virtual bool inline_only() const noexcept { return true; }

  /// True: the target looks after its legs itself, and may go live without one of them; no leg
  /// that it has open is asked whether it is ready.
  virtual bool watches_legs() const noexcept { return false; }

  /// Every leg, in the order of the table line; may repeat.
  virtual std::span<const std::shared_ptr<Leg>> legs() const noexcept { return {}; }

  /// dmsetup's status and table parameters, without "start length type ".
  virtual std::string status() const { return {}; }
  virtual std::string table() const { return {}; }
  /// What status() has no words for, as one JSON object; empty: nothing.
  virtual std::string details() const { return {}; }

  /// dmsetup message. Words as the user wrote them, but "leg NUMBER TEXT…", which the device takes
  /// to that leg; the answer may be empty.
  virtual Result<std::string> message(std::span<const std::string> words);

  // Hooks, in device-mapper's order. presuspend runs while I/O still flows; postsuspend when all
  // has ended; preresume may fail, and then the old table goes on.
  virtual void presuspend() noexcept {}
  virtual void presuspend_undo() noexcept {}
  virtual void postsuspend() noexcept {}
  virtual Result<void> preresume() { return {}; }
  virtual void resume() noexcept {}

  /// Requests that the target itself holds (delays): ends them with this status.
  virtual void release_held(Errc) noexcept {}
  /// How many those are now; named when a suspend's deadline passes.
  virtual std::uint64_t held() const noexcept { return 0; }
};

/// Opens legs for a table under construction: the same URI gives the same leg within a table.
class LegOpener {
 public:
  virtual ~LegOpener() = default;
  /// Fails, naming the leg, unless [offset, offset+length) lies inside it.
  virtual Result<std::shared_ptr<Leg>> open(std::string_view uri, Sectors offset,
                                            Sectors length) = 0;
  /// Takes a leg that another table has open already, under the name that this one gives it. A
  /// table makes the same checks.
  virtual Result<std::shared_ptr<Leg>> adopt(std::string_view, std::shared_ptr<Leg> leg, Sectors,
                                             Sectors) {
    return leg;
  }
};

/// What a target is made of: one table line.
struct TargetArgs {
  Sectors start;
  Sectors length;
  std::span<const std::string> words;  ///< after the type; backslash escapes resolved
  LegOpener& legs;
};

/// One kind of target (dm's struct target_type), a row of target_types().
struct TargetType {
  std::string_view name;
  std::string_view version;  ///< of the grammar: "1.2.0", as `dmsetup targets` prints
  Result<std::unique_ptr<Target>> (*create)(const TargetArgs& args);
};

std::span<const TargetType> target_types() noexcept;
const TargetType* find_target_type(std::string_view name) noexcept;

/// One more type, not built in: a test's. Before any table is made.
void add_target_type(const TargetType& type);

}  // namespace blockloom
