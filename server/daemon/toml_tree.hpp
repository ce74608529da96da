#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "server/base/error.hpp"

namespace blockloom {

/// A value of a TOML text with its place, free of the library that parsed it.
struct TomlValue {
  enum class Kind : std::uint8_t { text, number, real, boolean, time, array, table };
  struct Entry;

  Kind kind = Kind::table;
  unsigned line = 1, column = 1;
  std::string text;
  std::int64_t number = 0;
  double real = 0;
  bool boolean = false;
  std::vector<TomlValue> items;  ///< of an array
  std::vector<Entry> entries;    ///< of a table

  const TomlValue* find(std::string_view key) const noexcept;
};

struct TomlValue::Entry {
  std::string key;
  unsigned line = 1, column = 1;  ///< of the key
  TomlValue value;
};

/// What was wrong with a text, and where.
struct TomlError {
  std::string message;
  unsigned line = 1, column = 1;
};

/// Parses a whole text; false, and the error is set, if it is not TOML. Any bytes are safe.
bool parse_toml(std::string_view text, TomlValue& value, TomlError& error);

}  // namespace blockloom
