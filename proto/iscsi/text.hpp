#pragma once

#include <cstddef>
#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

namespace blockloom::iscsi {

/// The data of a text or login PDU: "key=value" and a zero byte each (RFC 7143 6.1).
struct KeyValue {
  std::string_view key, value;
};

inline constexpr std::size_t max_key_length = 63;
/// 255 but for what is large by nature: lists, and CHAP's binary values.
inline constexpr std::size_t max_value_length = 8192;
/// Pairs in one exchange. Answered in full ("NotUnderstood"), they still fit the 8192 bytes that
/// every initiator takes while it logs in.
inline constexpr std::size_t max_pairs = 96;

/// The pairs, which point into the bytes; nothing if a key or a value breaks the grammar or a
/// bound.
std::optional<std::vector<KeyValue>> parse_text(std::string_view bytes);

/// Writes such data.
class TextWriter {
 public:
  void add(std::string_view key, std::string_view value);
  void add(std::string_view key, std::uint64_t number);
  void add_flag(std::string_view key, bool yes) { add(key, yes ? "Yes" : "No"); }
  bool empty() const noexcept { return text_.empty(); }
  std::size_t size() const noexcept { return text_.size(); }
  std::string take();

 private:
  std::string text_;
};

/// Puts together what came in several PDUs (C bit). Bounded.
class TextAssembler {
 public:
  static constexpr std::size_t limit = 32768;

  /// False when it has grown over the limit; the exchange cannot go on.
  bool add(std::string_view segment);
  const std::string& text() const noexcept { return text_; }
  void clear() noexcept { text_.clear(); }

 private:
  std::string text_;
};

/// A number as text keys have it: decimal, or hexadecimal after 0x. Nothing if it is anything
/// else, or does not fit.
std::optional<std::uint64_t> parse_number(std::string_view text) noexcept;

/// The items of a comma-separated list, in order; at most 64, empty ones included.
std::vector<std::string_view> split_list(std::string_view text);

/// A binary value: 0x and hexadecimal digits, or 0b and base64 (RFC 7143 6.1). Nothing if it is
/// malformed, or decodes to more than max_bytes.
std::optional<std::string> decode_binary(std::string_view text, std::size_t max_bytes);
std::string encode_hex(std::string_view bytes);

}  // namespace blockloom::iscsi
