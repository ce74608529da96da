#include "server/daemon/config_reader.hpp"

#include <algorithm>

#include <fmt/format.h>

namespace blockloom {
namespace {

using Kind = TomlValue::Kind;

constexpr std::size_t errors_told = 20;

/// "the text 'abc'", for messages.
std::string describe(const TomlValue& node) {
  switch (node.kind) {
    case Kind::text:
      return fmt::format("the text {}", blockloom::quoted(node.text));
    case Kind::number:
      return fmt::format("the number {}", node.number);
    case Kind::real:
      return fmt::format("the number {}", node.real);
    case Kind::boolean:
      return node.boolean ? "true" : "false";
    case Kind::table:
      return "a table";
    case Kind::array:
      return "an array";
    case Kind::time:
      break;
  }
  return "a date or time";
}

}  // namespace

bool is_plain(std::string_view text, bool lines_allowed) noexcept {
  return std::none_of(text.begin(), text.end(), [&](char c) {
    const bool line = c == '\n' || c == '\r' || c == '\t';
    return (static_cast<unsigned char>(c) < 0x20 && !(line && lines_allowed)) || c == 0x7f;
  });
}

void TomlReader::read_texts(const Keys& keys) {
  for (file_ = 0; file_ < texts_.size(); ++file_) {
    TomlValue root;
    TomlError error;
    if (!parse_toml(texts_[file_].text, root, error)) {
      fail({file_, error.line, error.column}, std::move(error.message));
      continue;
    }
    if (file_ == 0) first_empty_ = root.entries.empty();
    read_table(root, "", keys);
  }
}

Result<void> TomlReader::result() {
  if (errors_.empty()) return {};
  std::stable_sort(errors_.begin(), errors_.end(),
                   [](const auto& a, const auto& b) { return a.first < b.first; });
  std::string all;
  for (std::size_t i = 0; i < errors_.size() && i < errors_told; ++i)
    all += fmt::format("{}{}: {}", i == 0 ? "" : "\n", text(errors_[i].first), errors_[i].second);
  if (errors_.size() > errors_told)
    all += fmt::format("\nand {} more errors", errors_.size() - errors_told);
  return Error{Errc::invalid, std::move(all)};
}

std::string TomlReader::text(const Place& where) const {
  return fmt::format("{}:{}:{}", texts_[where.file].name, where.line, where.column);
}

void TomlReader::expect(const TomlValue& node, const std::string& path, std::string_view expected) {
  fail(place(node), fmt::format("{}: expected {}, not {}", path, expected, describe(node)));
}

bool TomlReader::once(const std::string& what, Place where) {
  const auto [it, first] = places_.emplace(what, where);
  if (!first) fail(where, fmt::format("{} is already given at {}", what, text(it->second)));
  return first;
}

void TomlReader::read_table(const TomlValue& table, const std::string& path, const Keys& keys) {
  for (const TomlValue::Entry& entry : table.entries) {
    const std::string& name = entry.key;
    const auto known =
        std::find_if(keys.begin(), keys.end(), [&](const Key& k) { return k.name == name; });
    if (known != keys.end()) {
      known->read(entry.value, path.empty() ? name : fmt::format("{}.{}", path, name));
      continue;
    }
    std::string names;
    for (const Key& k : keys)
      names += fmt::format("{}{}", names.empty() ? "" : ", ", k.name);
    fail(place(entry), fmt::format("unknown key {}{}: expected {}{}", blockloom::quoted(name),
                                   path.empty() ? "" : fmt::format(" in {}", path),
                                   keys.size() > 1 ? "one of " : "", names));
  }
}

std::optional<std::string> TomlReader::string(const TomlValue& node, const std::string& path,
                                              std::string_view expected, bool lines_allowed) {
  if (node.kind != Kind::text) {
    expect(node, path, expected);
    return std::nullopt;
  }
  if (!is_plain(node.text, lines_allowed)) {
    fail(place(node), fmt::format("{}: the text holds a control character", path));
    return std::nullopt;
  }
  return node.text;
}

std::optional<std::int64_t> TomlReader::integer(const TomlValue& node, const std::string& path,
                                                std::int64_t min, std::int64_t max) {
  if (node.kind == Kind::number && node.number >= min && node.number <= max) return node.number;
  expect(node, path, fmt::format("a whole number from {} to {}", min, max));
  return std::nullopt;
}

std::optional<bool> TomlReader::boolean(const TomlValue& node, const std::string& path) {
  if (node.kind == Kind::boolean) return node.boolean;
  expect(node, path, "true or false");
  return std::nullopt;
}

TomlReader::Read TomlReader::section(Keys keys) {
  return [this, keys = std::move(keys)](const TomlValue& node, const std::string& path) {
    if (node.kind == Kind::table)
      read_table(node, path, keys);
    else
      expect(node, path, fmt::format("a section, as in [{}]", path));
  };
}

TomlReader::Read TomlReader::setting(std::string& target, std::string_view expected) {
  return [this, &target, expected](const TomlValue& node, const std::string& path) {
    auto value = string(node, path, expected);
    if (value && value->empty()) return expect(node, path, expected);
    if (value && once(path, place(node))) target = std::move(*value);
  };
}

TomlReader::Read TomlReader::setting_path(std::string& target, std::string_view expected) {
  return [this, &target, expected](const TomlValue& node, const std::string& path) {
    auto value = string(node, path, expected);
    if (value && !value->starts_with('/')) return expect(node, path, expected);
    if (value && once(path, place(node))) target = std::move(*value);
  };
}

TomlReader::Read TomlReader::setting(bool& target) {
  return [this, &target](const TomlValue& node, const std::string& path) {
    if (const auto value = boolean(node, path); value && once(path, place(node))) target = *value;
  };
}

TomlReader::Read TomlReader::setting(Duration& target) {
  return [this, &target](const TomlValue& node, const std::string& path) {
    constexpr std::string_view expected = "a duration from 1ms to 24h, as in \"250ms\" or \"5s\"";
    const auto value = string(node, path, expected);
    if (!value) return;
    const auto duration = parse_duration(*value);
    if (!duration || duration.value() == Duration{})
      expect(node, path, expected);
    else if (once(path, place(node)))
      target = duration.value();
  };
}

}  // namespace blockloom
