#include "server/device/names.hpp"

#include <algorithm>
#include <cstdint>

#include <fmt/format.h>

namespace blockloom {
namespace {

bool name_character(char c) {
  return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') ||
         std::string_view("#+-.:=@_").find(c) != std::string_view::npos;
}

bool is_utf8(std::string_view text) {
  while (!text.empty()) {
    const auto first = static_cast<unsigned char>(text.front());
    const std::size_t length = first < 0x80             ? 1
                               : (first & 0xe0) == 0xc0 ? 2
                               : (first & 0xf0) == 0xe0 ? 3
                               : (first & 0xf8) == 0xf0 ? 4
                                                        : 0;
    if (length == 0 || length > text.size()) return false;
    std::uint32_t code = length == 1 ? first : first & (0x7fU >> length);
    for (std::size_t i = 1; i < length; ++i) {
      const auto next = static_cast<unsigned char>(text[i]);
      if ((next & 0xc0) != 0x80) return false;
      code = code << 6 | (next & 0x3f);
    }
    constexpr std::uint32_t smallest[] = {0, 0, 0x80, 0x800, 0x10000};
    if (code < smallest[length] || code > 0x10ffff || (code >= 0xd800 && code < 0xe000))
      return false;
    text.remove_prefix(length);
  }
  return true;
}

}  // namespace

Result<void> check_device_name(std::string_view name) {
  if (name.empty() || name.size() > 127 || name.front() == '-' || name.front() == '.' ||
      !std::all_of(name.begin(), name.end(), name_character))
    return Error{Errc::invalid,
                 fmt::format("device name {}: expected 1 to 127 letters, digits or #+-.:=@_, not "
                             "starting with '-' or '.'",
                             quoted(name.substr(0, 200)))};
  return {};
}

Result<void> check_device_uuid(std::string_view uuid) {
  if (uuid.empty() || uuid.size() > 128 ||
      !std::all_of(uuid.begin(), uuid.end(), [](char c) { return c > ' ' && c < 0x7f; }))
    return Error{Errc::invalid,
                 fmt::format("device uuid {}: expected 1 to 128 printable ASCII characters without "
                             "blanks",
                             quoted(uuid.substr(0, 200)))};
  return {};
}

Result<void> check_table_text(std::string_view text) {
  if (is_utf8(text)) return {};
  return Error{Errc::invalid,
               "the table is not UTF-8: write a path with other bytes as file:///… with %XX"};
}

}  // namespace blockloom
