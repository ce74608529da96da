#include "proto/iscsi/text.hpp"

#include <algorithm>
#include <utility>

#include "proto/text/number.hpp"

namespace blockloom::iscsi {
namespace {

bool is_key_char(char c) {
  return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') || c == '.' ||
         c == '-' || c == '+' || c == '@' || c == '_' || c == '#';
}

bool is_key(std::string_view key) {
  // RFC 7143 wants a capital letter first, and names a key iSCSIProtocolLevel.
  const auto is_letter = [](char c) { return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z'); };
  return !key.empty() && key.size() <= max_key_length && is_letter(key[0]) &&
         std::all_of(key.begin(), key.end(), is_key_char);
}

int hex_digit(char c) {
  if (c >= '0' && c <= '9') return c - '0';
  if (c >= 'a' && c <= 'f') return c - 'a' + 10;
  if (c >= 'A' && c <= 'F') return c - 'A' + 10;
  return -1;
}

int base64_digit(char c) {
  if (c >= 'A' && c <= 'Z') return c - 'A';
  if (c >= 'a' && c <= 'z') return c - 'a' + 26;
  if (c >= '0' && c <= '9') return c - '0' + 52;
  if (c == '+') return 62;
  if (c == '/') return 63;
  return -1;
}

std::optional<std::string> decode_hex(std::string_view digits, std::size_t max_bytes) {
  if (digits.empty() || (digits.size() + 1) / 2 > max_bytes) return std::nullopt;
  std::string bytes;
  // An odd number of digits: the first stands alone.
  unsigned value = 0;
  bool half = digits.size() % 2 != 0;
  for (const char c : digits) {
    const int digit = hex_digit(c);
    if (digit < 0) return std::nullopt;
    value = (value << 4 | static_cast<unsigned>(digit)) & 0xff;
    if (half) {
      bytes.push_back(static_cast<char>(value));
      value = 0;
    }
    half = !half;
  }
  return bytes;
}

std::optional<std::string> decode_base64(std::string_view text, std::size_t max_bytes) {
  if (text.empty() || text.size() % 4 != 0 || text.size() / 4 * 3 > max_bytes + 2)
    return std::nullopt;
  std::size_t pad = 0;
  while (pad < 2 && text.ends_with('=')) {
    text.remove_suffix(1);
    ++pad;
  }
  std::string bytes;
  std::uint32_t value = 0;
  unsigned bits = 0;
  for (const char c : text) {
    const int digit = base64_digit(c);
    if (digit < 0) return std::nullopt;
    value = value << 6 | static_cast<std::uint32_t>(digit);
    bits += 6;
    if (bits >= 8) {
      bits -= 8;
      bytes.push_back(static_cast<char>(value >> bits & 0xff));
      value &= (1U << bits) - 1;
    }
  }
  // What padding leaves over is zero: one text for one value.
  if (value != 0 || bytes.size() > max_bytes) return std::nullopt;
  return bytes;
}

}  // namespace

std::optional<std::vector<KeyValue>> parse_text(std::string_view bytes) {
  std::vector<KeyValue> pairs;
  while (!bytes.empty()) {
    const std::string_view pair = bytes.substr(0, bytes.find('\0'));
    bytes.remove_prefix(std::min(bytes.size(), pair.size() + 1));
    if (pair.empty()) continue;  // some pad with more than one zero
    const std::size_t equals = pair.find('=');
    if (equals == std::string_view::npos || pairs.size() == max_pairs) return std::nullopt;
    const KeyValue found{pair.substr(0, equals), pair.substr(equals + 1)};
    if (!is_key(found.key) || found.value.size() > max_value_length) return std::nullopt;
    pairs.push_back(found);
  }
  return pairs;
}

void TextWriter::add(std::string_view key, std::string_view value) {
  text_.append(key);
  text_.push_back('=');
  text_.append(value);
  text_.push_back('\0');
}

void TextWriter::add(std::string_view key, std::uint64_t number) {
  add(key, std::string_view(std::to_string(number)));
}

std::string TextWriter::take() {
  return std::exchange(text_, {});
}

bool TextAssembler::add(std::string_view segment) {
  if (segment.size() > limit - text_.size()) return false;
  text_.append(segment);
  return true;
}

std::optional<std::uint64_t> parse_number(std::string_view text) noexcept {
  int base = 10;
  if (text.starts_with("0x") || text.starts_with("0X")) {
    base = 16;
    text.remove_prefix(2);
  }
  std::uint64_t value = 0;
  if (!parse_whole(text, value, base)) return std::nullopt;
  return value;
}

std::vector<std::string_view> split_list(std::string_view text) {
  std::vector<std::string_view> items;
  while (items.size() < 64) {
    const std::size_t comma = text.find(',');
    items.push_back(text.substr(0, comma));
    if (comma == std::string_view::npos) break;
    text.remove_prefix(comma + 1);
  }
  return items;
}

std::optional<std::string> decode_binary(std::string_view text, std::size_t max_bytes) {
  if (text.starts_with("0x") || text.starts_with("0X"))
    return decode_hex(text.substr(2), max_bytes);
  if (text.starts_with("0b") || text.starts_with("0B"))
    return decode_base64(text.substr(2), max_bytes);
  return std::nullopt;
}

std::string encode_hex(std::string_view bytes) {
  static constexpr char digits[] = "0123456789abcdef";
  std::string text = "0x";
  for (const char c : bytes) {
    const auto byte = static_cast<unsigned char>(c);
    text.push_back(digits[byte >> 4]);
    text.push_back(digits[byte & 15]);
  }
  return text;
}

}  // namespace blockloom::iscsi
