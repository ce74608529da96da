#include <algorithm>
#include <charconv>

#include <fmt/format.h>

#include "server/daemon/config_dump.hpp"
#include "server/daemon/config_iscsi.hpp"
#include "server/daemon/config_reader.hpp"
#include "server/device/names.hpp"
#include "server/target/table_line.hpp"

namespace blockloom {
namespace {

using Key = TomlReader::Key;
using Keys = TomlReader::Keys;
using Place = TomlReader::Place;
using Node = TomlValue;
using Kind = TomlValue::Kind;
using Path = const std::string&;

/// The grammar of blockloom.toml, in the order of docs/blockloom.toml.5.scd.
class Grammar {
 public:
  Grammar(std::span<const ConfigText> texts, Config& out)
      : in_(texts), out_(out), iscsi_(in_, out.iscsi) {}

  Result<void> read_config() {
    in_.read_texts({{"server", in_.section(server_keys())},
                    {"tls", in_.section(tls_keys())},
                    {"limits", in_.section(limits_keys())},
                    iscsi_.key(),
                    {"dump", in_.section(dump_keys(in_, out_.dump))},
                    device_key()});
    out_.main_empty = in_.first_empty();
    if (!in_.failed()) check_together();
    return in_.result();
  }

  Result<void> read_devices_only() {
    in_.read_texts({device_key()});
    return in_.result();
  }

 private:
  Keys server_keys() {
    return {
        {"listen", [this](const Node& n, Path p) { read_listeners(n, p); }},
        {"control", in_.setting_path(out_.control, "the absolute path of a socket")},
        {"state_dir", in_.setting_path(out_.state_dir, "the absolute path of a folder")},
        {"user", in_.setting(out_.user, "the name of a user")},
        {"group", in_.setting(out_.group, "the name of a group")},
        {"insecure", in_.setting(out_.insecure)},
        {"threads", in_.setting(out_.threads, 1, 1024)},
        {"filters", [this](const Node& n, Path p) { read_filters(n, p); }},
        {"default_device", in_.setting(out_.default_device, "the name of a device")},
        {"advertise", in_.setting(out_.advertise)},
    };
  }

  Keys tls_keys() {
    return {
        {"mode", [this](const Node& n, Path p) { read_tls_mode(n, p); }},
        {"certificates", in_.setting_path(out_.tls.certificates, "the absolute path of a folder")},
        {"psk", in_.setting_path(out_.tls.psk, "the absolute path of a file")},
        {"verify_peer", in_.setting(out_.tls.verify_peer)},
    };
  }

  Keys limits_keys() {
    return {
        {"queue_requests", in_.setting(out_.limits.queue_requests, 1, 1'000'000)},
        {"queue_timeout", in_.setting(out_.limits.queue_timeout)},
        {"suspend_timeout", in_.setting(out_.limits.suspend_timeout)},
    };
  }

  Key device_key() {
    return {"device", [this](const Node& n, Path p) { read_devices(n, p); }};
  }

  // [server] listen = ["tcp:127.0.0.1:10809", {address = "unix:/run/b.sock", mode = "0600"}]

  void read_listeners(const Node& node, Path path) {
    if (node.kind != Kind::array)
      return in_.expect(node, path, "an array, as in [\"tcp:127.0.0.1:10809\"]");
    for (const Node& element : node.items)
      read_listener(element, path);
  }

  void read_listener(const Node& node, Path path) {
    std::string address;
    std::optional<unsigned> mode;
    bool insecure = false;
    const std::size_t errors_before = in_.errors();
    const Keys keys{
        {"address",
         [&](const Node& n, Path p) {
           address = in_.string(n, p, "a listener, as in \"tcp:127.0.0.1:10809\"").value_or("");
         }},
        {"mode", [&](const Node& n, Path p) { mode = read_mode(n, p); }},
        {"insecure", [&](const Node& n, Path p) { insecure = in_.boolean(n, p).value_or(false); }}};
    if (node.kind == Kind::table)
      in_.read_table(node, path, keys);
    else if (node.kind == Kind::text)
      keys.front().read(node, path);
    else
      in_.expect(node, path, "a listener, as in \"tcp:127.0.0.1:10809\" or {address = \"…\"}");
    if (in_.errors() != errors_before) return;

    auto listener = parse_listener(address);
    if (!listener)
      return in_.fail(in_.place(node), fmt::format("{}: {}", path, listener.error().message));
    if (mode && listener->kind != Listener::Kind::unix_socket)
      return in_.fail(in_.place(node), fmt::format("{}: a mode is for a Unix socket, not for '{}'",
                                                   path, to_string(*listener)));
    listener->mode = mode.value_or(listener->mode);
    listener->insecure = insecure;
    if (!in_.once(fmt::format("the listener '{}'", to_string(*listener)), in_.place(node))) return;
    listener_places_.push_back(in_.place(node));
    out_.listen.push_back(std::move(*listener));
  }

  unsigned read_mode(const Node& node, Path path) {
    constexpr std::string_view expected = "a file mode in octal, as in \"0660\"";
    const auto value = in_.string(node, path, expected);
    if (!value) return 0;
    unsigned mode = 0;
    const char* const end = value->data() + value->size();
    const auto [stop, error] = std::from_chars(value->data(), end, mode, 8);
    if (error != std::errc{} || stop != end || mode > 0777) in_.expect(node, path, expected);
    return mode;
  }

  // [server] filters = [{name = "ip", params = {allow = "127.0.0.1", deny = "all"}}]

  void read_filters(const Node& node, Path path) {
    if (node.kind != Kind::array)
      return in_.expect(node, path, "an array, as in [{name = \"stats\"}]");
    for (const Node& element : node.items)
      read_filter(element, path);
  }

  void read_filter(const Node& node, Path path) {
    if (node.kind != Kind::table)
      return in_.expect(node, path, "a filter, as in {name = \"delay\", params = {rdelay = 1}}");
    FilterConfig filter;
    const std::size_t errors_before = in_.errors();
    in_.read_table(node, path,
                   {{"name", [&](const Node& n, Path p) { read_filter_name(n, p, filter); }},
                    {"params", [&](const Node& n, Path p) { read_params(n, p, filter); }}});
    if (in_.errors() != errors_before) return;
    if (filter.name.empty())
      return in_.fail(in_.place(node), fmt::format("{}: a filter needs a name", path));
    out_.filters.push_back(std::move(filter));
  }

  void read_filter_name(const Node& node, Path path, FilterConfig& filter) {
    constexpr std::string_view expected =
        "the name of an nbdkit filter, or the absolute path of one (….so)";
    const auto name = in_.string(node, path, expected);
    if (!name) return;
    const bool is_path = name->starts_with('/') && name->ends_with(".so");
    const bool is_word = !name->empty() && std::all_of(name->begin(), name->end(), [](char c) {
      return is_letter(c) || is_digit(c) || c == '-' || c == '_';
    });
    if (!is_path && !is_word) return in_.expect(node, path, expected);
    filter.name = *name;
  }

  void read_params(const Node& node, Path path, FilterConfig& filter) {
    if (node.kind != Kind::table)
      return in_.expect(node, path, "the filter's parameters, as in {rdelay = \"10ms\"}");
    for (const auto& entry : node.entries) {
      const std::string& name = entry.key;
      if (!is_param_name(name))
        in_.fail(in_.place(entry),
                 fmt::format("{}: {} is not a filter's parameter: expected letters, digits, '-', "
                             "'_' and '.', and none of the plugin's own names",
                             path, blockloom::quoted(name)));
      else
        filter.params.emplace_back(name,
                                   param_value(entry.value, fmt::format("{}.{}", path, name)));
    }
  }

  std::string param_value(const Node& node, Path path) {
    if (node.kind == Kind::number) return std::to_string(node.number);
    if (node.kind == Kind::boolean) return node.boolean ? "true" : "false";
    return in_.string(node, path, "a text, a whole number, true or false").value_or("");
  }

  static bool is_letter(char c) { return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z'); }
  static bool is_digit(char c) { return c >= '0' && c <= '9'; }

  /// What nbdkit takes for KEY=VALUE, less the plugin's own keys.
  static bool is_param_name(const std::string& name) {
    static constexpr std::string_view ours[] = {"config",  "table", "device",   "default",
                                                "control", "state", "readonly", "iscsi"};
    return !name.empty() && is_letter(name[0]) &&
           std::find(std::begin(ours), std::end(ours), name) == std::end(ours) &&
           std::all_of(name.begin(), name.end(), [](char c) {
             return is_letter(c) || is_digit(c) || c == '-' || c == '_' || c == '.';
           });
  }

  // [tls]

  void read_tls_mode(const Node& node, Path path) {
    using Mode = TlsConfig::Mode;
    static const std::map<std::string_view, Mode> modes{
        {"off", Mode::off}, {"on", Mode::on}, {"require", Mode::require}};
    constexpr std::string_view expected = "\"off\", \"on\" or \"require\"";
    const auto value = in_.string(node, path, expected);
    if (!value) return;
    const auto mode = modes.find(*value);
    if (mode == modes.end())
      in_.expect(node, path, expected);
    else if (in_.once(path, in_.place(node)))
      out_.tls.mode = mode->second;
  }

  // [[device]]

  void read_devices(const Node& node, Path path) {
    constexpr std::string_view expected = "[[device]] with two brackets, once for each device";
    if (node.kind != Kind::array) return in_.expect(node, path, expected);
    for (const Node& element : node.items) {
      if (element.kind == Kind::table)
        read_device(element, path);
      else
        in_.expect(element, path, expected);
    }
  }

  void read_device(const TomlValue& table, Path path) {
    DeviceSpec spec;
    const auto text = [this](std::string& target, std::string_view expected, bool lines = false) {
      return [this, &target, expected, lines](const Node& n, Path p) {
        target = in_.string(n, p, expected, lines).value_or("");
      };
    };
    const std::size_t errors_before = in_.errors();
    in_.read_table(table, path,
                   {{"name", text(spec.name, "a device's name")},
                    {"table", text(spec.table, "a table, as in \"0 2048 linear /a.img 0\"", true)},
                    {"uuid", text(spec.uuid, "a text")},
                    {"description", text(spec.description, "a text")},
                    {"read_only", [&](const Node& n, Path p) {
                       spec.read_only = in_.boolean(n, p).value_or(false);
                     }}});
    if (in_.errors() == errors_before) check_device(table, std::move(spec));
  }

  void check_device(const TomlValue& table, DeviceSpec spec) {
    const auto at = [&](std::string_view key) {
      const Node* node = table.find(key);
      return in_.place(node != nullptr ? *node : table);
    };
    if (const auto r = check_device_name(spec.name); !r)
      return in_.fail(at("name"), "device.name: " + r.error().message);
    if (!spec.uuid.empty())
      if (const auto r = check_device_uuid(spec.uuid); !r)
        return in_.fail(at("uuid"), fmt::format("device '{}': {}", spec.name, r.error().message));
    if (const auto r = check_table_text(spec.table); !r)
      return in_.fail(at("table"), fmt::format("device '{}': {}", spec.name, r.error().message));
    const auto lines = parse_table(spec.table);
    if (!lines)
      return in_.fail(at("table"),
                      fmt::format("device '{}': table: {}", spec.name, lines.error().message));
    if (lines.value().empty())
      return in_.fail(at("table"), fmt::format("device '{}' needs a table, as in \"0 2048 linear "
                                               "/a.img 0\"",
                                               spec.name));
    spec.origin = in_.text(at("table"));
    if (!in_.once(fmt::format("device '{}'", spec.name), at("name"))) return;
    if (spec.uuid.empty() || in_.once(fmt::format("uuid '{}'", spec.uuid), at("uuid")))
      out_.devices.push_back(std::move(spec));
  }

  /// What takes more than one key to judge.
  void check_together() {
    const TlsConfig& tls = out_.tls;
    if (tls.mode != TlsConfig::Mode::off && tls.certificates.empty() && tls.psk.empty())
      in_.fail(in_.said("tls.mode"),
               "tls.mode: TLS needs tls.certificates (a folder with ca-cert.pem, "
               "server-cert.pem and server-key.pem) or tls.psk (a file of keys)");
    if (!tls.certificates.empty() && !tls.psk.empty())
      in_.fail(in_.said("tls.psk"), fmt::format("tls.psk: expected certificates or keys, not "
                                                "both; tls.certificates is given at {}",
                                                in_.text(in_.said("tls.certificates"))));
    if (tls.verify_peer && !tls.psk.empty())
      in_.fail(in_.said("tls.verify_peer"),
               "tls.verify_peer: it is for certificates; with tls.psk every client proves its key");
    for (std::size_t i = 0; i < out_.listen.size(); ++i)
      if (const auto allowed = check_public(out_.listen[i], out_); !allowed)
        in_.fail(listener_places_[i], allowed.error().message);
    iscsi_.check_together(out_.insecure);
    if (const auto good = dump::check_options(out_.dump); !good) in_.fail({}, good.error().message);
  }

  TomlReader in_;
  Config& out_;
  IscsiGrammar iscsi_;
  std::vector<Place> listener_places_;  // beside out_.listen
};

}  // namespace

Result<Config> parse_config(const std::vector<ConfigText>& texts) {
  Config config;
  for (const ConfigText& text : texts)
    config.files.push_back(text.name);
  if (auto read = Grammar(texts, config).read_config(); !read) return read.error();
  return config;
}

Result<std::vector<DeviceSpec>> parse_devices(const ConfigText& text) {
  Config config;
  if (auto read = Grammar({&text, 1}, config).read_devices_only(); !read) return read.error();
  return std::move(config.devices);
}

}  // namespace blockloom
