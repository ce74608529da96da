#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "proto/dump/range_set.hpp"
#include "server/base/error.hpp"
#include "server/dump/back_end.hpp"

namespace blockloom::dump {

/// Which bytes of an unfinished dump are here, kept beside it, so that it can go on after the
/// server was killed. Written before a packet is acknowledged. One thread at a time.
///
/// It tells the truth only while the machine runs on: after a restart of the machine what was in
/// its caches is gone, and read() then finds nothing.
class Journal {
 public:
  Journal(BackEnd& back_end, DumpId id) : back_end_(back_end), id_(std::move(id)) {}

  /// The ranges of an earlier server in this same boot of the machine; empty if there are none.
  Result<RangeSet> read();
  /// Begins anew with these ranges.
  Result<void> begin(const RangeSet& here);
  /// More bytes are here; `all` with them, for when the journal has grown long.
  Result<void> add(const std::vector<Range>& more, const RangeSet& all);
  void remove();

 private:
  BackEnd& back_end_;
  const DumpId id_;
  std::uint64_t end_ = 0;
};

}  // namespace blockloom::dump
