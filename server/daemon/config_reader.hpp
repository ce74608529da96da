#pragma once

#include <cstdint>
#include <functional>
#include <map>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "server/base/clock.hpp"
#include "server/base/error.hpp"
#include "server/daemon/config.hpp"
#include "server/daemon/toml_tree.hpp"

namespace blockloom {

/// Reads values out of TOML texts, one text after the other, and collects what is wrong, each
/// with its place. The grammar is the caller's: keys, with a reader for the value of each.
class TomlReader {
 public:
  struct Place {
    std::size_t file = 0;  ///< index of the text
    unsigned line = 1, column = 1;
    auto operator<=>(const Place&) const = default;
  };
  using Read = std::function<void(const TomlValue&, const std::string& path)>;
  struct Key {
    std::string_view name;
    Read read;
  };
  using Keys = std::vector<Key>;

  /// The texts outlive the reader.
  explicit TomlReader(std::span<const ConfigText> texts) : texts_(texts) {}

  void read_texts(const Keys& keys);
  /// The first text parsed and holds no key at all.
  bool first_empty() const noexcept { return first_empty_; }
  bool failed() const noexcept { return !errors_.empty(); }
  std::size_t errors() const noexcept { return errors_.size(); }
  /// All errors in the order of their places, or success.
  Result<void> result();

  // Places and errors.
  Place place(const TomlValue& node) const { return {file_, node.line, node.column}; }
  Place place(const TomlValue::Entry& entry) const { return {file_, entry.line, entry.column}; }
  std::string text(const Place& where) const;
  void fail(Place where, std::string what) { errors_.emplace_back(where, std::move(what)); }
  void expect(const TomlValue& node, const std::string& path, std::string_view expected);
  /// For what may be said once over all texts: false, and an error that names both places, the
  /// second time.
  bool once(const std::string& what, Place where);
  /// Where that was said; only of what was.
  Place said(const std::string& what) const { return places_.at(what); }

  // Values: nothing, and an error, unless the node holds what is expected.
  void read_table(const TomlValue& table, const std::string& path, const Keys& keys);
  std::optional<std::string> string(const TomlValue& node, const std::string& path,
                                    std::string_view expected, bool lines_allowed = false);
  std::optional<std::int64_t> integer(const TomlValue& node, const std::string& path,
                                      std::int64_t min, std::int64_t max);
  std::optional<bool> boolean(const TomlValue& node, const std::string& path);

  // Readers of settings that may be given once; the target outlives the reader.
  Read section(Keys keys);
  Read setting(std::string& target, std::string_view expected);
  Read setting_path(std::string& target, std::string_view expected);
  Read setting(bool& target);
  Read setting(Duration& target);
  template <class T>
  Read setting(T& target, std::int64_t min, std::int64_t max) {
    return [this, &target, min, max](const TomlValue& node, const std::string& path) {
      if (const auto value = integer(node, path, min, max); value && once(path, place(node)))
        target = static_cast<T>(*value);
    };
  }

 private:
  std::span<const ConfigText> texts_;
  std::size_t file_ = 0;  // the one that is read
  bool first_empty_ = false;
  std::map<std::string, Place> places_;
  std::vector<std::pair<Place, std::string>> errors_;
};

/// No control characters, but line breaks and tabs where they are allowed.
bool is_plain(std::string_view text, bool lines_allowed) noexcept;

}  // namespace blockloom
