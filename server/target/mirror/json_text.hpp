#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <utility>

#include <fmt/format.h>

#include "server/target/mirror/types.hpp"

namespace blockloom::mirror {

/// JSON of one status, item by item, written by hand: the parser that the tree has stands on a
/// higher floor. An item of a list has no key.
class Json {
 public:
  void open(std::string_view key = {}) { item(key), text_ += '{', first_ = true; }
  void open_list(std::string_view key) { item(key), text_ += '[', first_ = true; }
  void close() { text_ += '}', first_ = false; }
  void close_list() { text_ += ']', first_ = false; }

  void text(std::string_view key, std::string_view value) {
    item(key);
    text_ += '"';
    for (const char c : value) {
      const auto byte = static_cast<unsigned char>(c);
      if (c == '"' || c == '\\')
        text_ += '\\', text_ += c;
      else if (byte < 0x20)
        text_ += fmt::format("\\u{:04x}", byte);
      else
        text_ += c;
    }
    text_ += '"';
  }
  void number(std::string_view key, std::uint64_t value) {
    item(key), text_ += fmt::format("{}", value);
  }
  void seconds(std::string_view key, Time nanoseconds) {
    item(key), text_ += fmt::format("{:.3f}", static_cast<double>(nanoseconds) / 1e9);
  }
  void boolean(std::string_view key, bool value) { item(key), text_ += value ? "true" : "false"; }
  std::string take() { return std::move(text_); }

 private:
  void item(std::string_view key) {
    if (!first_) text_ += ',';
    first_ = false;
    if (!key.empty()) text_ += fmt::format("\"{}\":", key);
  }
  std::string text_;
  bool first_ = true;
};

}  // namespace blockloom::mirror
