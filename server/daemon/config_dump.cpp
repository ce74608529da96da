// [dump] of blockloom.toml, in the order of docs/blockloom.toml.5.scd.
#include "server/daemon/config_dump.hpp"

#include <charconv>
#include <limits>

#include <fmt/format.h>

#include "proto/dump/netconsole.hpp"
#include "proto/dump/netdump.hpp"
#include "proto/dump/stream_wire.hpp"

namespace blockloom {
namespace {

using Node = TomlValue;
using Path = const std::string&;
using dump::BindPoint;

constexpr std::string_view size_expected = "a size, as in \"512MiB\" or \"10GiB\"";
constexpr std::string_view age_expected = "a time, as in \"12h\" or \"30d\"";

TomlReader::Read points(TomlReader& in, std::vector<BindPoint>& out, std::string_view scheme,
                        std::uint16_t port) {
  return [&in, &out, scheme, port](const Node& node, Path path) {
    const std::string expected = fmt::format("an array, as in [\"{}:127.0.0.1:{}\"]", scheme, port);
    if (node.kind != Node::Kind::array) return in.expect(node, path, expected);
    if (!in.once(path, in.place(node))) return;
    for (const Node& item : node.items) {
      const auto text = in.string(item, path, expected);
      if (!text) continue;
      auto point = dump::parse_bind_point(*text, scheme, port);
      if (point)
        out.push_back(*point);
      else
        in.fail(in.place(item), fmt::format("{}: {}", path, point.error().message));
    }
  };
}

TomlReader::Read networks(TomlReader& in, std::vector<dump::Network>& out) {
  return [&in, &out](const Node& node, Path path) {
    constexpr std::string_view expected = "an array, as in [\"10.0.0.0/8\", \"192.0.2.7\"]";
    if (node.kind != Node::Kind::array) return in.expect(node, path, expected);
    if (!in.once(path, in.place(node))) return;
    for (const Node& item : node.items) {
      const auto text = in.string(item, path, expected);
      if (!text) continue;
      auto network = dump::parse_network(*text);
      if (network)
        out.push_back(*network);
      else
        in.fail(in.place(item), fmt::format("{}: {}", path, network.error().message));
    }
  };
}

/// hosts = {"10.0.0.5" = "web1"}
TomlReader::Read hosts(TomlReader& in, std::map<dump::Address, std::string>& out) {
  return [&in, &out](const Node& node, Path path) {
    constexpr std::string_view expected = "a table, as in {\"10.0.0.5\" = \"web1\"}";
    if (node.kind != Node::Kind::table) return in.expect(node, path, expected);
    for (const Node::Entry& entry : node.entries) {
      auto address = dump::Address::parse(entry.key);
      const auto name = in.string(entry.value, path, "the name of a host");
      if (!address)
        in.fail(in.place(entry), fmt::format("{}: {}", path, address.error().message));
      else if (name && *name != dump::safe_host(*name))
        in.expect(entry.value, path, "a name of letters, digits, '.', '-' and '_'");
      else if (name && in.once(fmt::format("the host of {}", address->text()), in.place(entry)))
        out[*address] = *name;
    }
  };
}

TomlReader::Read size(TomlReader& in, std::uint64_t& out) {
  return [&in, &out](const Node& node, Path path) {
    const auto text = in.string(node, path, size_expected);
    if (!text) return;
    const auto value = parse_size(*text);
    if (!value)
      in.expect(node, path, size_expected);
    else if (in.once(path, in.place(node)))
      out = value.value();
  };
}

TomlReader::Read age(TomlReader& in, Duration& out) {
  return [&in, &out](const Node& node, Path path) {
    const auto text = in.string(node, path, age_expected);
    if (!text) return;
    std::uint64_t days = 0;
    const char* const end = text->data() + text->size();
    const auto [stop, error] = std::from_chars(text->data(), end, days);
    Result<Duration> value = Duration{};
    if (error == std::errc{} && std::string_view(stop, end) == "d" && days <= 36500)
      value = Duration(std::chrono::hours(24 * days));
    else
      value = parse_duration(*text);
    if (!value)
      in.expect(node, path, age_expected);
    else if (in.once(path, in.place(node)))
      out = value.value();
  };
}

}  // namespace

Result<std::uint64_t> parse_size(std::string_view text) {
  static constexpr std::pair<std::string_view, unsigned> units[] = {
      {"B", 0}, {"KiB", 10}, {"MiB", 20}, {"GiB", 30}, {"TiB", 40}};
  std::uint64_t n = 0;
  const char* const end = text.data() + text.size();
  const auto [stop, error] = std::from_chars(text.data(), end, n);
  const std::string_view unit(stop, static_cast<std::size_t>(end - stop));
  for (const auto& [name, shift] : units)
    if (error == std::errc{} && unit == name &&
        n <= (static_cast<std::uint64_t>(std::numeric_limits<std::int64_t>::max()) >> shift))
      return n << shift;
  return Error{Errc::invalid, fmt::format("{} is not a size: expected a whole number and B, KiB, "
                                          "MiB, GiB or TiB, as in \"10GiB\"",
                                          blockloom::quoted(text))};
}

namespace {

TomlReader::Read tls_mode(TomlReader& in, dump::TlsOptions::Mode& out) {
  return [&in, &out](const Node& node, Path path) {
    using Mode = dump::TlsOptions::Mode;
    static constexpr std::pair<std::string_view, Mode> modes[] = {
        {"off", Mode::off}, {"on", Mode::on}, {"require", Mode::require}};
    constexpr std::string_view expected = "\"off\", \"on\" or \"require\"";
    const auto value = in.string(node, path, expected);
    if (!value) return;
    for (const auto& [name, mode] : modes) {
      if (*value != name) continue;
      if (in.once(path, in.place(node))) out = mode;
      return;
    }
    in.expect(node, path, expected);
  };
}

TomlReader::Keys dump_tls_keys(TomlReader& in, dump::TlsOptions& out) {
  return {
      {"mode", tls_mode(in, out.mode)},
      {"psk", in.setting_path(out.psk, "the absolute path of a file")},
      {"certificates", in.setting_path(out.certificates, "the absolute path of a folder")},
      {"verify_peer", in.setting(out.verify_peer)},
  };
}

}  // namespace

TomlReader::Keys dump_keys(TomlReader& in, dump::Options& out) {
  return {
      {"store", in.setting_path(out.store, "the absolute path of a folder")},
      {"device", in.setting(out.device, "the name of a device")},
      {"netdump", points(in, out.netdump, "udp", dump::netdump_port)},
      {"stream", points(in, out.stream, "tcp", dump::wire::stream_port)},
      {"netconsole", points(in, out.netconsole, "udp", dump::netconsole_port)},
      {"allow", networks(in, out.allow)},
      {"insecure", in.setting(out.insecure)},
      {"token_file", in.setting_path(out.token_file, "the absolute path of a file")},
      {"tls", in.section(dump_tls_keys(in, out.tls))},
      {"hosts", hosts(in, out.hosts)},
      {"quota_dump", size(in, out.quota.dump)},
      {"quota_host", size(in, out.quota.host)},
      {"quota_total", size(in, out.quota.total)},
      {"keep_free", size(in, out.quota.keep_free)},
      {"retain_count", in.setting(out.retention.count, 0, 1'000'000)},
      {"retain_age", age(in, out.retention.age)},
      {"retain_size", size(in, out.retention.bytes)},
      {"sessions", in.setting(out.sessions, 1, 4096)},
      {"begins_per_minute", in.setting(out.begins_per_minute, 0, 1'000'000)},
      {"timeout", in.setting(out.timeout)},
      {"hook", in.setting_path(out.hook, "the absolute path of a program")},
      {"hook_timeout", in.setting(out.hook_timeout)},
  };
}

}  // namespace blockloom
