#include "server/daemon/config_iscsi.hpp"

#include <algorithm>
#include <iterator>

#include <fmt/format.h>

#include "proto/iscsi/login.hpp"
#include "server/device/names.hpp"

namespace blockloom {

using Kind = TomlValue::Kind;
using iscsi::IscsiOptions;
using iscsi::TargetOptions;

TomlReader::Read IscsiGrammar::text(std::string& target, std::string_view expected) {
  return [this, &target, expected](const Node& n, Path p) {
    auto value = in_.string(n, p, expected);
    if (value && value->empty()) return in_.expect(n, p, expected);
    if (value) target = std::move(*value);
  };
}

TomlReader::Read IscsiGrammar::absolute(std::string& target, std::string_view expected) {
  return [this, &target, expected](const Node& n, Path p) {
    auto value = in_.string(n, p, expected);
    if (value && !value->starts_with('/')) return in_.expect(n, p, expected);
    if (value) target = std::move(*value);
  };
}

TomlReader::Read IscsiGrammar::flag(bool& target) {
  return [this, &target](const Node& n, Path p) {
    if (const auto value = in_.boolean(n, p)) target = *value;
  };
}

TomlReader::Key IscsiGrammar::key() {
  return {"iscsi", [this, section = in_.section(section_keys())](const Node& n, Path p) {
            out_.enabled = true;
            section(n, p);
          }};
}

TomlReader::Keys IscsiGrammar::section_keys() {
  Keys keys{
      {"enabled", in_.setting(enabled_)},
      {"portals", [this](const Node& n, Path p) { read_portals(n, p); }},
      {"insecure", in_.setting(out_.insecure)},
      {"threads", in_.setting(out_.threads, 1, 64)},
      {"discovery_chap",
       in_.setting_path(out_.discovery_chap_file, "the absolute path of a file of secrets")},
      {"target", [this](const Node& n, Path p) { read_targets(n, p); }},
  };
  for (TomlReader::Key& key : limit_keys())
    keys.push_back(std::move(key));
  return keys;
}

TomlReader::Keys IscsiGrammar::limit_keys() {
  iscsi::IscsiLimits& limits = out_.limits;
  return {
      {"connections", in_.setting(limits.connections, 1, 65535)},
      {"sessions", in_.setting(limits.sessions, 1, 65535)},
      {"unauthenticated", in_.setting(limits.unauthenticated, 1, 65535)},
      {"queue_depth", in_.setting(limits.queue_depth, 1, 1024)},
      {"session_memory_mib", in_.setting(session_mib_, 1, 65536)},
      {"memory_mib", in_.setting(memory_mib_, 16, 1'048'576)},
      {"login_timeout", in_.setting(limits.login_timeout)},
      {"ping_interval", in_.setting(limits.ping_interval)},
      {"ping_timeout", in_.setting(limits.ping_timeout)},
      {"send_timeout", in_.setting(limits.send_timeout)},
  };
}

// portals = ["127.0.0.1:3260", {address = "*", advertise = "storage.example:3260"}]

void IscsiGrammar::read_portals(const Node& node, Path path) {
  if (node.kind != Kind::array)
    return in_.expect(node, path, "an array, as in [\"127.0.0.1:3260\"]");
  for (const Node& element : node.items)
    read_portal(element, path);
}

void IscsiGrammar::read_portal(const Node& node, Path path) {
  constexpr std::string_view expected = "a portal, as in \"127.0.0.1:3260\" or {address = \"…\"}";
  std::string address, advertise;
  bool insecure = false;
  const std::size_t errors_before = in_.errors();
  const Keys keys{{"address", text(address, expected)},
                  {"advertise", text(advertise, "\"HOST:PORT\"")},
                  {"insecure", flag(insecure)}};
  if (node.kind == Kind::table)
    in_.read_table(node, path, keys);
  else
    keys.front().read(node, path);
  if (in_.errors() != errors_before) return;
  auto portal = iscsi::parse_portal(address);
  if (!portal)
    return in_.fail(in_.place(node), fmt::format("{}: {}", path, portal.error().message));
  if (!advertise.empty() && advertise.find_last_of(':') == std::string::npos)
    return in_.fail(in_.place(node), fmt::format("{}.advertise: {} is not HOST:PORT", path,
                                                 blockloom::quoted(advertise)));
  portal->advertise = std::move(advertise);
  portal->insecure = insecure;
  if (!in_.once(fmt::format("the portal '{}'", to_string(*portal)), in_.place(node))) return;
  portal_places_.push_back(in_.place(node));
  out_.portals.push_back(std::move(*portal));
}

// [[iscsi.target]]

void IscsiGrammar::read_targets(const Node& node, Path path) {
  constexpr std::string_view expected = "[[iscsi.target]] with two brackets, once for each target";
  if (node.kind != Kind::array) return in_.expect(node, path, expected);
  for (const Node& element : node.items) {
    if (element.kind == Kind::table)
      read_target(element, path);
    else
      in_.expect(element, path, expected);
  }
}

TomlReader::Keys IscsiGrammar::target_keys(TargetOptions& target, bool& named_luns) {
  iscsi::Offers& offers = target.offers;
  const auto segment = [&](std::uint32_t& value) {
    return number(value, iscsi::min_segment, iscsi::max_segment);
  };
  return {
      {"name", text(target.name, "an iSCSI name, as in \"iqn.2026-01.org.example:disks\"")},
      {"alias", text(target.alias, "a text")},
      {"luns",
       [this, &target, &named_luns](const Node& n, Path p) {
         named_luns = true;
         read_luns(n, p, target);
       }},
      {"initiators",
       [this, &target](const Node& n, Path p) { read_names(n, p, target.access.initiators); }},
      {"addresses",
       [this, &target](const Node& n, Path p) { read_ranges(n, p, target.access.addresses); }},
      {"chap", absolute(target.chap_file, "the absolute path of a file of secrets")},
      {"chap_algorithms",
       [this, &target](const Node& n, Path p) { read_algorithms(n, p, target.chap); }},
      {"header_digest",
       [this, &offers](const Node& n, Path p) { read_digest(n, p, offers.header_digest); }},
      {"data_digest",
       [this, &offers](const Node& n, Path p) { read_digest(n, p, offers.data_digest); }},
      {"max_segment", segment(offers.max_recv_data_segment_length)},
      {"max_burst", segment(offers.max_burst_length)},
      {"first_burst", segment(offers.first_burst_length)},
      {"max_outstanding_r2t", number(offers.max_outstanding_r2t, 1, 8)},
      {"initial_r2t", flag(offers.initial_r2t)},
      {"immediate_data", flag(offers.immediate_data)},
      {"redirect", text(target.redirect, "\"HOST:PORT\"")},
  };
}

void IscsiGrammar::read_target(const Node& node, Path path) {
  TargetOptions target;
  bool named_luns = false;
  const std::size_t errors_before = in_.errors();
  in_.read_table(node, path, target_keys(target, named_luns));
  if (in_.errors() != errors_before) return;
  const Node* const name = node.find("name");
  const TomlReader::Place at = in_.place(name != nullptr ? *name : node);
  if (!iscsi::is_iscsi_name(target.name))
    return in_.fail(at, fmt::format("{}.name: {} is not an iSCSI name: expected one as in "
                                    "\"iqn.2026-01.org.example:disks\", eui. or naa.",
                                    path, blockloom::quoted(target.name)));
  if (!in_.once(fmt::format("the iSCSI target '{}'", target.name), at)) return;
  target.all_devices = !named_luns;
  out_.targets.push_back(std::move(target));
}

// luns = ["vol0", {device = "vol1", lun = 7, read_only = true, block_size = 4096}]

void IscsiGrammar::read_luns(const Node& node, Path path, TargetOptions& target) {
  if (node.kind != Kind::array) return in_.expect(node, path, "an array, as in [\"vol0\"]");
  for (std::size_t i = 0; i < node.items.size(); ++i)
    read_lun(node.items[i], path, i, target);
}

void IscsiGrammar::read_lun(const Node& node, Path path, std::size_t index, TargetOptions& target) {
  iscsi::LunOptions lun;
  lun.lun = static_cast<std::uint16_t>(std::min<std::size_t>(index, 16383));
  const std::size_t errors_before = in_.errors();
  const Keys keys{{"device", text(lun.unit.device, "the name of a device")},
                  {"lun", number(lun.lun, 0, 16383)},
                  {"read_only", flag(lun.unit.read_only)},
                  {"thin", flag(lun.unit.thin)},
                  {"removable", flag(lun.unit.removable)},
                  {"sanitize", flag(lun.unit.sanitize)},
                  {"block_size", number(lun.unit.block_size, 512, 4096)},
                  {"serial", text(lun.unit.serial, "a text of up to 32 characters")}};
  if (node.kind == Kind::table)
    in_.read_table(node, path, keys);
  else
    keys.front().read(node, path);
  if (in_.errors() != errors_before) return;
  const auto fail = [&](std::string what) { in_.fail(in_.place(node), std::move(what)); };
  if (const auto good = check_device_name(lun.unit.device); !good)
    return fail(fmt::format("{}: {}", path, good.error().message));
  if (lun.unit.block_size != 512 && lun.unit.block_size != 4096)
    return fail(
        fmt::format("{}.block_size: expected 512 or 4096, not {}", path, lun.unit.block_size));
  if (lun.unit.serial.size() > 32)
    return fail(fmt::format("{}.serial: expected up to 32 characters", path));
  const bool taken = std::any_of(target.luns.begin(), target.luns.end(),
                                 [&](const iscsi::LunOptions& l) { return l.lun == lun.lun; });
  if (taken) return fail(fmt::format("{}: LUN {} is already given", path, lun.lun));
  target.luns.push_back(std::move(lun));
}

void IscsiGrammar::read_names(const Node& node, Path path, std::vector<std::string>& names) {
  constexpr std::string_view expected =
      "names of initiators, as in [\"iqn.1993-08.org.debian:01:host1\", \"iqn.1991-05.*\"]";
  if (node.kind != Kind::array || node.items.empty()) return in_.expect(node, path, expected);
  for (const Node& element : node.items) {
    std::string name;
    text(name, expected)(element, path);
    if (!name.empty()) names.push_back(std::move(name));
  }
}

void IscsiGrammar::read_ranges(const Node& node, Path path,
                               std::vector<iscsi::AddressRange>& ranges) {
  constexpr std::string_view expected = "addresses, as in [\"192.0.2.0/24\", \"2001:db8::7\"]";
  if (node.kind != Kind::array || node.items.empty()) return in_.expect(node, path, expected);
  for (const Node& element : node.items) {
    const auto value = in_.string(element, path, expected);
    if (!value) continue;
    auto range = iscsi::parse_address_range(*value);
    if (range)
      ranges.push_back(*range);
    else
      in_.fail(in_.place(element), fmt::format("{}: {}", path, range.error().message));
  }
}

void IscsiGrammar::read_algorithms(const Node& node, Path path, iscsi::ChapSettings& chap) {
  constexpr std::string_view expected =
      "CHAP's hash functions, best first, of \"sha3-256\", \"sha256\", \"sha1\", \"md5\"";
  if (node.kind != Kind::array || node.items.empty()) return in_.expect(node, path, expected);
  chap.algorithms.clear();
  for (const Node& element : node.items) {
    const auto value = in_.string(element, path, expected);
    if (!value) continue;
    if (const auto algorithm = iscsi::chap_algorithm(*value))
      chap.algorithms.push_back(*algorithm);
    else
      in_.expect(element, path, expected);
  }
}

void IscsiGrammar::read_digest(const Node& node, Path path, iscsi::DigestPolicy& digest) {
  static constexpr std::string_view names[] = {"none", "allowed", "prefer", "require"};
  constexpr std::string_view expected = "\"none\", \"allowed\", \"prefer\" or \"require\"";
  const auto value = in_.string(node, path, expected);
  if (!value) return;
  const auto* const name = std::find(std::begin(names), std::end(names), *value);
  if (name == std::end(names)) return in_.expect(node, path, expected);
  digest = static_cast<iscsi::DigestPolicy>(name - std::begin(names));
}

void IscsiGrammar::check_together(bool insecure) {
  out_.enabled = out_.enabled && enabled_;
  out_.limits.total_bytes = memory_mib_ << 20;
  out_.limits.session_bytes = std::min(session_mib_ << 20, out_.limits.total_bytes);
  out_.insecure = out_.insecure || insecure;
  for (std::size_t i = 0; i < out_.portals.size(); ++i)
    if (const auto allowed = check_public(out_.portals[i], out_); !allowed)
      in_.fail(portal_places_[i], allowed.error().message);
}

Result<void> check_public(const iscsi::PortalOptions& portal, const IscsiOptions& options) {
  if (options.insecure || portal.insecure || !is_public(portal)) return {};
  const IscsiOptions whole = iscsi::with_defaults(options);
  const auto open = std::find_if(whole.targets.begin(), whole.targets.end(), [](const auto& t) {
    return t.chap_file.empty() && t.access.addresses.empty() && t.redirect.empty();
  });
  if (open == whole.targets.end()) return {};
  return Error{Errc::permission,
               fmt::format("the iSCSI portal '{}' is public, and target '{}' lets anybody in: set "
                           "its chap or addresses, listen on 127.0.0.1 or [::1], or say that it is "
                           "meant by insecure = true, for all of [iscsi] or for this portal: "
                           "{{address = \"{}\", insecure = true}}",
                           to_string(portal), open->name, to_string(portal))};
}

}  // namespace blockloom
