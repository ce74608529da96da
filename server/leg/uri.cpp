#include "server/leg/uri.hpp"

#include <charconv>
#include <limits>
#include <optional>

#include <fmt/format.h>

#include "proto/text/number.hpp"

namespace blockloom {
namespace {

/// Takes a decimal number off the front; empty when there is none or it is too large.
std::optional<std::uint64_t> take_number(std::string_view& text) {
  std::uint64_t value = 0;
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value);
  if (error != std::errc()) return std::nullopt;
  text.remove_prefix(static_cast<std::size_t>(end - text.data()));
  return value;
}

int unit_shift(std::string_view unit) {
  if (unit.empty()) return 0;
  const std::string_view rest = unit.substr(1);
  if (!rest.empty() && rest != "iB") return -1;
  switch (unit[0]) {
    case 'K':
      return 10;
    case 'M':
      return 20;
    case 'G':
      return 30;
    case 'T':
      return 40;
    default:
      return -1;
  }
}

}  // namespace

Result<Bytes> parse_size(std::string_view text, std::string_view what) {
  constexpr std::uint64_t max = std::numeric_limits<std::int64_t>::max();
  std::string_view rest = text;
  const auto number = take_number(rest);
  const int shift = unit_shift(rest);
  if (!number || shift < 0 || *number > max >> shift)
    return Error{Errc::invalid, fmt::format("{} {}: expected bytes, such as 65536, 64K, 512M, 1G",
                                            what, quoted(text))};
  return Bytes(*number << shift);
}

Result<Duration> parse_time(std::string_view text, std::string_view what) {
  using namespace std::chrono;
  constexpr std::uint64_t hour_us = 3'600'000'000;
  std::string_view rest = text;
  const auto number = take_number(rest);
  const std::uint64_t unit = rest == "us" ? 1 : rest == "ms" ? 1000 : rest == "s" ? 1'000'000 : 0;
  if (!number || unit == 0 || *number > hour_us / unit)
    return Error{Errc::invalid,
                 fmt::format("{} {}: expected a time up to one hour, such as 250us, 100ms, 5s",
                             what, quoted(text))};
  return duration_cast<Duration>(microseconds(*number * unit));
}

Result<std::uint64_t> parse_count(std::string_view text, std::string_view what, std::uint64_t max) {
  std::string_view rest = text;
  const auto number = take_number(rest);
  if (!number || !rest.empty() || *number == 0 || *number > max)
    return Error{Errc::invalid,
                 fmt::format("{} {}: expected a number from 1 to {}", what, quoted(text), max)};
  return *number;
}

Result<std::string> percent_decode(std::string_view text) {
  std::string result;
  for (std::size_t i = 0; i < text.size(); ++i) {
    if (text[i] != '%') {
      result += text[i];
      continue;
    }
    const int high = i + 2 < text.size() ? hex_digit(text[i + 1]) : -1;
    const int low = i + 2 < text.size() ? hex_digit(text[i + 2]) : -1;
    if (high < 0 || low < 0 || high + low == 0)
      return Error{Errc::invalid,
                   fmt::format("{}: expected two hexadecimal digits other than 00 after each %",
                               quoted(text.substr(i, 3)))};
    result += static_cast<char>(high << 4 | low);
    i += 2;
  }
  return result;
}

bool split_fault_uri(std::string_view uri, std::string_view& rules, std::string_view& inner) {
  constexpr std::string_view open = "fault:[", close = "]:";
  if (!uri.starts_with(open)) return false;
  const auto end = uri.find(close, open.size());
  if (end == uri.npos) return false;
  rules = uri.substr(open.size(), end - open.size());
  inner = uri.substr(end + close.size());
  return true;
}

std::string public_uri(std::string_view text) {
  constexpr std::string_view scheme = "iscsi://";
  std::string result;
  for (;;) {
    const auto found = text.find(scheme);
    if (found == text.npos) return result.append(text);
    const auto start = found + scheme.size();
    result.append(text.substr(0, start));
    text.remove_prefix(start);
    const std::string_view uri = text.substr(0, text.find_first_of(" \t\n"));
    const std::string_view authority = uri.substr(0, uri.find('/'));
    auto at = authority.rfind('@');
    // A password that holds a / or a ? breaks the grammar, and is to be hidden all the same.
    // Without a % in front what follows a ? are parameters; and the text may be JSON.
    if (at == uri.npos && !authority.starts_with('['))
      at = uri.substr(0, uri.find(authority.find('%') != uri.npos ? '"' : '?')).rfind('@');
    const auto percent = uri.find('%');
    if (at == uri.npos || percent == uri.npos || percent > at) continue;
    result.append(text.substr(0, percent + 1)).append("***");
    text.remove_prefix(at);
  }
}

}  // namespace blockloom
