#include "proto/scsi/identity.hpp"

#include "proto/scsi/bytes.hpp"
#include "proto/text/number.hpp"

namespace blockloom::scsi {
namespace {

constexpr std::size_t longest_serial = 128;

// FNV-1a, and a finalizer that spreads the last characters over all bits (MurmurHash3's).
std::uint64_t hash(std::string_view text) noexcept {
  std::uint64_t h = 0xcbf29ce484222325;
  for (const char c : text)
    h = (h ^ static_cast<std::uint8_t>(c)) * 0x100000001b3;
  h ^= h >> 33;
  h *= 0xff51afd7ed558ccd;
  h ^= h >> 33;
  h *= 0xc4ceb9fe1a85ec53;
  return h ^ h >> 33;
}

std::optional<std::array<std::uint8_t, 16>> parse_uuid(std::string_view text) noexcept {
  if (text.size() != 36) return {};
  std::array<std::uint8_t, 16> uuid{};
  std::size_t digits = 0;
  for (std::size_t i = 0; i < text.size(); ++i) {
    if (i == 8 || i == 13 || i == 18 || i == 23) {
      if (text[i] != '-') return {};
      continue;
    }
    const int digit = hex_digit(text[i]);
    if (digit < 0) return {};
    uuid[digits / 2] = static_cast<std::uint8_t>(uuid[digits / 2] << 4 | digit);
    ++digits;
  }
  return uuid;
}

}  // namespace

Identity identity_of(std::string_view text) {
  Identity identity;
  store<8>(identity.naa.data(), (hash(text) & 0x0fffffffffffffff) | 0x3000000000000000);
  identity.serial = text.empty() ? "unnamed" : std::string(text.substr(0, longest_serial));
  for (char& c : identity.serial)
    if (c < 0x20 || c > 0x7e) c = '_';
  identity.uuid = parse_uuid(text);
  return identity;
}

std::string naa_text(const Identity& identity) {
  constexpr char digits[] = "0123456789abcdef";
  std::string text = "naa.";
  for (const std::uint8_t byte : identity.naa) {
    text += digits[byte >> 4];
    text += digits[byte & 15];
  }
  return text;
}

}  // namespace blockloom::scsi
