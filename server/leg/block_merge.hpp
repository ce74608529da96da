#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <list>
#include <memory>
#include <mutex>

#include "server/leg/io.hpp"

namespace blockloom {

/// Lets Ios in sectors of 512 bytes through to something whose blocks are larger: a part of a block
/// is written by reading the block, and writing it again. Ios that modify the same block go one
/// after the other, in the order in which they came. Any thread.
class BlockMerge {
 public:
  /// More Ios that modify, at a time, end with Errc::limit.
  static constexpr std::size_t most = 4096;

  /// `submit` takes Ios in whole blocks, whose leg is null, and runs their completion if it gave
  /// Submit::pending.
  BlockMerge(std::uint32_t block, std::function<Submit(Io&)> submit);
  ~BlockMerge();

  /// An Io that may be handed on as it is: neither this nor any other needs to wait for it.
  bool passes(const Io& io) const noexcept;

  /// The Io ends through `end` if this gives Submit::pending.
  Submit submit(Io& io, void (*end)(Io&, Errc) noexcept) noexcept;

  /// This Io is under way here, in parts.
  bool has(const Io& io) const noexcept;

 private:
  struct Merge;
  using Merges = std::list<std::unique_ptr<Merge>>;

  bool blocked_locked(const Merge& merge) const noexcept;
  void go_on(Merge& merge) noexcept;
  bool next_step(Merge& merge) noexcept;
  void finish(Merge& merge) noexcept;
  static void step_ended(Io& io) noexcept;

  const std::uint32_t block_;
  const std::function<Submit(Io&)> submit_;
  mutable std::mutex mutex_;  // protects what follows
  Merges merges_;             // in the order in which they came
};

}  // namespace blockloom
