#pragma once

#include <string>
#include <vector>

#include "server/daemon/config.hpp"
#include "server/daemon/config_reader.hpp"
#include "server/iscsi/options.hpp"

namespace blockloom {

/// The grammar of [iscsi] and [[iscsi.target]], in the order of docs/blockloom.toml.5.scd.
class IscsiGrammar {
 public:
  IscsiGrammar(TomlReader& in, iscsi::IscsiOptions& out) : in_(in), out_(out) {}

  TomlReader::Key key();
  /// What takes more than one key to judge. `insecure`: of the whole server.
  void check_together(bool insecure);

 private:
  using Node = TomlValue;
  using Path = const std::string&;
  using Keys = TomlReader::Keys;
  using Places = std::vector<std::string>;

  Keys section_keys();
  Keys limit_keys();
  void read_portals(const Node& node, Path path);
  void read_portal(const Node& node, Path path);
  void read_targets(const Node& node, Path path);
  void read_target(const Node& node, Path path);
  Keys target_keys(iscsi::TargetOptions& target, bool& named_luns);
  void read_luns(const Node& node, Path path, iscsi::TargetOptions& target);
  void read_lun(const Node& node, Path path, std::size_t index, iscsi::TargetOptions& target);
  void read_names(const Node& node, Path path, std::vector<std::string>& names);
  void read_ranges(const Node& node, Path path, std::vector<iscsi::AddressRange>& ranges);
  void read_algorithms(const Node& node, Path path, iscsi::ChapSettings& chap);
  void read_digest(const Node& node, Path path, iscsi::DigestPolicy& digest);
  TomlReader::Read text(std::string& target, std::string_view expected);
  TomlReader::Read absolute(std::string& target, std::string_view expected);
  TomlReader::Read flag(bool& target);
  template <class T>
  TomlReader::Read number(T& target, std::int64_t min, std::int64_t max) {
    return [this, &target, min, max](const Node& n, Path p) {
      if (const auto value = in_.integer(n, p, min, max)) target = static_cast<T>(*value);
    };
  }

  TomlReader& in_;
  iscsi::IscsiOptions& out_;
  bool enabled_ = true;
  std::uint64_t memory_mib_ = 512, session_mib_ = 128;
  std::vector<TomlReader::Place> portal_places_;  // beside out_.portals
};

/// Refuses a public portal to a target that lets anybody in, unless that is meant.
Result<void> check_public(const iscsi::PortalOptions& portal, const iscsi::IscsiOptions& options);

/// Reads the secrets that the options name by file: lines "initiator NAME SECRET" and "target NAME
/// SECRET". Refuses a file that others may read, secrets under 12 bytes, and one secret for both
/// directions (RFC 7143 9.2.1).
Result<void> read_chap_files(iscsi::IscsiOptions& options);
Result<void> parse_chap(std::string_view text, const std::string& name, iscsi::ChapSettings& chap);

}  // namespace blockloom
