#pragma once

#include <charconv>
#include <string_view>
#include <system_error>

namespace blockloom {

/// Takes all of `text` as one number in `base`. False for no digits, anything
/// after them, a number that T cannot hold, or a sign that T has not.
template <class T>
bool parse_whole(std::string_view text, T& value, int base = 10) noexcept {
  const char* const end = text.data() + text.size();
  const auto [stop, error] = std::from_chars(text.data(), end, value, base);
  return error == std::errc{} && stop == end;
}

/// 0 to 15, or -1.
constexpr int hex_digit(char c) noexcept {
  if (c >= '0' && c <= '9') return c - '0';
  if (c >= 'a' && c <= 'f') return c - 'a' + 10;
  if (c >= 'A' && c <= 'F') return c - 'A' + 10;
  return -1;
}

}  // namespace blockloom
