#include "server/daemon/toml_tree.hpp"

#define TOML_EXCEPTIONS 0
#define TOML_HEADER_ONLY 1
#define TOML_ENABLE_FORMATTERS 0
#include <algorithm>

// toml++ 3.3 asserts what a text holds ("[" at the end of a line stops the process). A text is not
// a bug: its asserts become an error, in every build type.
#undef NDEBUG
namespace blockloom {
struct TomlRefused {};
[[noreturn]] static void refuse_toml() {
  throw TomlRefused{};  // tidy: caught below; the library has no other way out
}
}  // namespace blockloom
#define TOML_ASSERT(truth) ((truth) ? static_cast<void>(0) : ::blockloom::refuse_toml())
#include <toml++/toml.h>

namespace blockloom {
namespace {

template <class T>
void set_place(T& target, const toml::source_region& region) {
  // toml++ leaves 0 where it does not know.
  target.line = std::max(1U, static_cast<unsigned>(region.begin.line));
  target.column = std::max(1U, static_cast<unsigned>(region.begin.column));
}

// The parser bounds the depth (256), and so this recursion.
TomlValue convert(const toml::node& node) {
  using Kind = TomlValue::Kind;
  TomlValue value;
  set_place(value, node.source());
  if (const auto* text = node.as_string()) {
    value.kind = Kind::text;
    value.text = text->get();
  } else if (const auto* number = node.as_integer()) {
    value.kind = Kind::number;
    value.number = number->get();
  } else if (const auto* real = node.as_floating_point()) {
    value.kind = Kind::real;
    value.real = real->get();
  } else if (const auto* boolean = node.as_boolean()) {
    value.kind = Kind::boolean;
    value.boolean = boolean->get();
  } else if (const auto* array = node.as_array()) {
    value.kind = Kind::array;
    for (const toml::node& item : *array)
      value.items.push_back(convert(item));
  } else if (const auto* table = node.as_table()) {
    value.kind = Kind::table;
    for (const auto& [key, child] : *table) {
      TomlValue::Entry entry{std::string(key.str()), 1, 1, convert(child)};
      set_place(entry, key.source());
      value.entries.push_back(std::move(entry));
    }
  } else {
    value.kind = Kind::time;
  }
  return value;
}

}  // namespace

const TomlValue* TomlValue::find(std::string_view key) const noexcept {
  for (const Entry& entry : entries)
    if (entry.key == key) return &entry.value;
  return nullptr;
}

bool parse_toml(std::string_view text, TomlValue& value, TomlError& error) try {
  const toml::parse_result parsed = toml::parse(text);
  if (!parsed) {
    error.message = parsed.error().description();
    set_place(error, parsed.error().source());
    return false;
  }
  value = convert(parsed.table());
  return true;
} catch (const TomlRefused&) {
  error = {};
  error.message = "not TOML: the parser cannot say where";
  return false;
}

}  // namespace blockloom
