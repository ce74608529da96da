#pragma once

#include <array>
#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "server/base/clock.hpp"
#include "server/base/error.hpp"
#include "server/base/units.hpp"
#include "server/leg/io.hpp"

namespace blockloom {

/// What a fault leg does wrong, by rules:
///
///   RULES  = [RULE {";" RULE}]
///   RULE   = OP {"," OP} "=" ACTION ["@" START "+" LENGTH] [",x" COUNT]
///   OP     = "read" | "write" | "flush" | "trim" | "zero" | "cache" | "extents" | "any"
///   ACTION = "error" [":" CODE]   fails; CODE is an errno's name, EIO without
///          | "delay:" TIME        waits first, then does it; "250us", "100ms", "5s"
///          | "hang"               waits until the rules change, or the leg is released
///          | "short"              read and write: does the first half, then fails with EIO
///          | "pass"               does it: an exception from the rules after it
///
/// A rule with a range is for requests that touch it (START and LENGTH in bytes: "4096", "1M"),
/// never for a flush. A rule with a count ends after that many requests. The first rule that
/// matches a request is the one that acts.
///
///   read=error   write=delay:100ms@0+1M   any=hang   read,write=error:ENOSPC,x3
struct FaultRule {
  enum class Action : std::uint8_t { error, delay, hang, short_transfer, pass };

  std::uint8_t ops = 0;  ///< a bit per Op
  Action action = Action::error;
  Errc code = Errc::io;
  Duration delay{};
  bool ranged = false;
  Bytes start, length;
  std::optional<std::uint64_t> left;  ///< how many requests more; empty: all

  bool matches(const Io& io) const noexcept;
};

/// Parses RULES; at most 64. Errors name the rule, the word, and what was expected.
Result<std::vector<FaultRule>> parse_fault_rules(std::string_view text);

/// Writes a rule in the grammar above; the count is what is left.
std::string to_string(const FaultRule& rule);

}  // namespace blockloom
