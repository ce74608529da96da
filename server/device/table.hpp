#pragma once

#include <functional>
#include <memory>
#include <set>
#include <span>
#include <string>
#include <vector>

#include "server/base/error.hpp"
#include "server/base/units.hpp"
#include "server/device/request.hpp"
#include "server/device/segment_index.hpp"
#include "server/leg/leg.hpp"
#include "server/target/table_line.hpp"
#include "server/target/target.hpp"

namespace blockloom {

/// A device's map, complete and immutable: targets in order, without gap or overlap, from sector
/// 0 on. It validates, looks up, splits, and multiplies flush and trim.
class Table {
 public:
  /// One target and where it lies. One cache line with all that most requests need, for among
  /// 10,000 segments each further one is a wait for memory.
  struct alignas(64) Segment {
    Bytes start;
    Bytes length;
    Bytes chunk;               ///< the target's, here to save virtual calls
    std::uint32_t copies = 1;  ///< likewise
    bool chunks_all = false;   ///< likewise
    Target::Direct direct;     ///< likewise
    std::unique_ptr<Target> target;
  };

  /// Builds a table, opens its legs (for reading only, if the device is), creates its targets.
  /// Errors name line and word.
  static Result<std::unique_ptr<Table>> create(std::string_view text, bool read_only,
                                               LegContext& context);
  ~Table();

  Bytes size() const noexcept { return size_; }
  bool read_only() const noexcept { return read_only_; }
  /// True when every request ends in the caller's own thread.
  bool inline_only() const noexcept { return inline_only_; }
  /// The text it was made of, in normal form (one space, no comments): tells whether a
  /// configuration changed.
  const std::string& source() const noexcept { return source_; }

  /// Hands a request to the targets. It lies inside the table (checked by the caller) and the
  /// table outlives it. After pending, request.table_ended runs, not request.complete.
  Submit submit(Request& request) noexcept;

  std::span<const Segment> segments() const noexcept { return segments_; }
  const Segment& segment_at(Bytes offset) const noexcept { return segments_[index_of(offset)]; }
  /// Distinct legs, in order of first use.
  std::span<const std::shared_ptr<Leg>> legs() const noexcept { return legs_; }

  /// "START LENGTH TYPE ARGS" a line, as dmsetup table and dmsetup status print.
  std::string table_text() const;
  std::string status_text() const;

  // The targets' hooks, in table order. preresume stops at the first failure.
  void presuspend() noexcept;
  void presuspend_undo() noexcept;
  void postsuspend() noexcept;
  Result<void> ready();  ///< of every leg; only before a new table goes live
  Result<void> preresume();
  void resume() noexcept;
  void release_held(Errc status) noexcept;

  /// Legs and targets that still hold requests: "leg '/a' (3 requests)", for messages.
  std::vector<std::string> late() const;

 private:
  class Builder;
  class Split;
  class Cursor;

  Table() = default;
  std::size_t index_of(Bytes offset) const noexcept { return index_.find(offset.value); }
  Submit submit_split(Request& request) noexcept;
  Submit submit_inline(Request& request) noexcept;
  static void single_piece_ended(Io& io) noexcept;

  Bytes size_;
  SegmentIndex index_;
  std::vector<Segment> segments_;
  std::vector<std::shared_ptr<Leg>> legs_;
  /// Where a flush goes: a leg, or a copy for a target that maps flushes.
  struct FlushStep {
    Leg* leg = nullptr;
    Target* target = nullptr;
    std::uint32_t copy = 0;
  };
  std::vector<FlushStep> flush_steps_;
  std::set<const Leg*> watched_;  // by their targets themselves
  bool inline_only_ = true;
  bool read_only_ = false;
  std::string source_;
};

}  // namespace blockloom
