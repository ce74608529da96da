#pragma once

#include <string>
#include <string_view>

#include "server/base/clock.hpp"
#include "server/base/error.hpp"
#include "server/base/units.hpp"

namespace blockloom {

/// The pieces that leg URIs are made of. Errors name `what` and the text.

/// Bytes: "65536", or with a binary unit K, M, G, T, also KiB…: "64K", "1GiB".
Result<Bytes> parse_size(std::string_view text, std::string_view what);

/// A time with its unit: "250us", "100ms", "5s"; at most an hour.
Result<Duration> parse_time(std::string_view text, std::string_view what);

/// A non-zero decimal number of at most `max`.
Result<std::uint64_t> parse_count(std::string_view text, std::string_view what, std::uint64_t max);

/// Resolves %XX. A lone % or a %00 is an error.
Result<std::string> percent_decode(std::string_view text);

/// "fault:[RULES]:URI", cut into its parts. False when the brackets are not there.
bool split_fault_uri(std::string_view uri, std::string_view& rules, std::string_view& inner);

/// The text with the passwords of its URIs (iscsi://USER%PASSWORD@…) replaced by ***: for whatever
/// people see.
std::string public_uri(std::string_view text);

}  // namespace blockloom
