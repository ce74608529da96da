#pragma once

#include <cstdint>
#include <map>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "server/base/clock.hpp"
#include "server/base/error.hpp"
#include "server/dump/target.hpp"

namespace blockloom::dump {

/// The common loop: takes a dump's writes and brings them to several targets at once. A target
/// that fails or is late is left behind, with its reason, and the others go on; only without any
/// left does a call fail. One thread at a time.
class DumpWriter {
 public:
  struct Report {
    std::string name;
    Errc status = Errc::ok;
    std::string failure;  ///< empty: it has the whole dump
  };

  explicit DumpWriter(Duration write_timeout = std::chrono::seconds(20))
      : write_timeout_(write_timeout) {}
  ~DumpWriter();
  DumpWriter(const DumpWriter&) = delete;
  DumpWriter& operator=(const DumpWriter&) = delete;

  /// Before configure().
  void add(std::unique_ptr<DumpTarget> target);

  Result<void> configure(const DumpPlan& plan);  ///< configure, query, ready
  /// Returns when every target that is left has taken all of it (into its cache, if it has one).
  /// The writes of one batch do not overlap; a later batch wins over an earlier one.
  Result<void> write(std::span<const DumpWrite> batch);
  Result<void> reserve(std::uint64_t end);
  Result<void> sync();
  Result<void> finish(std::uint64_t length);  ///< finish, release, unconfigure
  /// Ends without a finish: what is there stays as it is.
  void drop() noexcept;

  /// From the first target that is left.
  Result<std::size_t> read(std::uint64_t offset, std::span<std::byte> into);

  std::vector<Report> reports() const;
  /// At least one target was left behind.
  bool degraded() const noexcept;

 private:
  struct Block {
    std::vector<std::byte> bytes;
    bool dirty = false;
  };
  struct Slot {
    std::unique_ptr<DumpTarget> target;
    DumpLimits limits;
    Errc status = Errc::ok;
    std::string failure;
    bool configured = false;
    std::map<std::uint64_t, Block> edges;  // blocks that a write filled only in part
    std::vector<DumpWrite> pieces;         // of the batch, cut to the limits
    std::vector<DumpCompletion> done;
    bool alive() const noexcept { return status == Errc::ok; }
  };

  Result<void> each(Result<void> (*step)(Slot& slot, std::uint64_t value, TimePoint deadline),
                    std::uint64_t value);
  void fail(Slot& slot, Error error);
  Result<void> left() const;
  static Result<void> cut(Slot& slot, std::span<const DumpWrite> batch);
  static Result<void> cut_unaligned(Slot& slot, const DumpWrite& write);
  static Result<Block*> edge(Slot& slot, std::uint64_t offset);
  static void add_pieces(Slot& slot, std::uint64_t offset, ByteView bytes);
  static Result<void> wait_for(Slot& slot, std::size_t& in_flight, TimePoint deadline);
  static void end(Slot& slot) noexcept;

  const Duration write_timeout_;
  std::vector<Slot> slots_;
};

}  // namespace blockloom::dump
