#pragma once

#include <array>
#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "server/base/clock.hpp"
#include "server/base/error.hpp"
#include "server/base/units.hpp"
#include "server/target/mirror/types.hpp"

namespace blockloom::mirror {

/// A mirror's table line, as words and as values. Pure.
///
///   mirror LOG #LOGARGS LOGARG… #LEGS (LEG OFFSET)… [#FEATURES FEATURE…]
///
///   LOG       core [REGION_SIZE] [sync|nosync] [block_on_error]
///             disk LOG_LEG REGION_SIZE [sync|nosync] [block_on_error]
///   FEATURE   handle_errors, keep_log, force, or KEY VALUE; KEY@N is for leg N alone (from 0)
///
/// As device-mapper's dm-raid1, with keys of our own in the features.

struct LegSpec {
  std::string uri;
  Sectors offset;
  // What KEY@N says; empty: as the mirror's.
  std::optional<std::uint64_t> timeout_ms, read_timeout_ms;
};

/// Whether two legs are the same bytes: what leads there (users, passwords, times) may differ.
bool same_storage(const LegSpec& a, const LegSpec& b);

struct MirrorSpec {
  bool disk_log = false;
  std::string log_uri;  ///< disk_log
  Sectors region_size{1024};
  std::optional<bool> sync;  ///< of a new record: copy from the first leg, or take them for equal
  bool block_on_error = false;
  std::vector<LegSpec> legs;

  bool handle_errors = false, keep_log = false;  ///< dm's words; errors are always handled
  bool force = false;  ///< start although the record cannot prove that it is safe (B3)
  std::string uuid;    ///< of the mirror; empty: whatever the log says
  std::optional<std::uint64_t> timeout_ms, read_timeout_ms;
  unsigned min_acks = 1;
  ReadPolicy read_policy = ReadPolicy::least_outstanding;
  std::optional<unsigned> preferred;
  std::uint64_t hedge_ms = 0;
  OnAllFailed on_all_failed = OnAllFailed::error;
  std::optional<std::uint64_t> queue_timeout_ms;
  std::optional<Bytes> resync_rate, resync_min_rate;  ///< bytes a second
  std::optional<std::uint64_t> clean_delay_ms, fence_delay_ms;
  std::optional<Bytes> late_limit;
};

/// Reads the words after "mirror". Errors name the word, and say what was expected.
Result<MirrorSpec> parse_mirror(std::span<const std::string> words);

/// The words that parse_mirror() reads back, as one text with escapes.
std::string to_text(const MirrorSpec& spec);
/// The log's part of it, as `dmsetup status` and `table` print it.
std::string log_text(const MirrorSpec& spec);

/// What the timeout of a leg comes to: its own word, else the mirror's, else 8 s for a leg with a
/// peer and none for a local one. 0: none.
std::uint64_t timeout_of(const MirrorSpec& spec, std::size_t leg, bool remote) noexcept;

std::string_view to_string(ReadPolicy policy) noexcept;

}  // namespace blockloom::mirror
