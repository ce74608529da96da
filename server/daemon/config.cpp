#include "server/daemon/config.hpp"

#include <algorithm>
#include <charconv>
#include <filesystem>
#include <fstream>
#include <limits>

#include <fmt/format.h>

#include "server/daemon/config_iscsi.hpp"

namespace blockloom {
namespace {

namespace fs = std::filesystem;

// A table's text may have 16 MiB; nobody writes a configuration of many of those by hand.
constexpr std::uintmax_t largest_file = 64ULL << 20;

Result<ConfigText> read_text(const fs::path& path) {
  std::error_code failed;
  const fs::file_status status = fs::status(path, failed);
  if (failed)
    return system_error(fmt::format("configuration file '{}'", path.string()), failed.value());
  if (!fs::is_regular_file(status))
    return Error{Errc::invalid,
                 fmt::format("configuration file '{}': expected a regular file", path.string())};
  if (fs::file_size(path, failed) > largest_file)
    return Error{Errc::limit, fmt::format("configuration file '{}': larger than {} MiB",
                                          path.string(), largest_file >> 20)};
  errno = 0;
  std::ifstream in(path, std::ios::binary);
  ConfigText text{path.string(), {}};
  if (in) text.text.assign(std::istreambuf_iterator<char>(in), std::istreambuf_iterator<char>());
  if (!in || in.bad())
    return system_error(fmt::format("configuration file '{}'", path.string()),
                        errno != 0 ? errno : EIO);
  return text;
}

/// conf.d/*.toml beside the file, by name; an empty list without the folder.
Result<std::vector<fs::path>> fragments(const fs::path& config) {
  const fs::path folder = config.parent_path() / "conf.d";
  std::vector<fs::path> found;
  std::error_code failed;
  fs::directory_iterator entry(folder, failed);
  if (failed == std::errc::no_such_file_or_directory) return found;
  while (!failed && entry != fs::directory_iterator()) {
    const std::string name = entry->path().filename().string();
    if (name.ends_with(".toml") && !name.starts_with('.')) found.push_back(entry->path());
    entry.increment(failed);
  }
  if (failed)
    return system_error(fmt::format("configuration folder '{}'", folder.string()), failed.value());
  std::sort(found.begin(), found.end());
  return found;
}

bool same(const DeviceLimits& a, const DeviceLimits& b) {
  return a.queue_requests == b.queue_requests && a.queue_timeout == b.queue_timeout &&
         a.suspend_timeout == b.suspend_timeout;
}

}  // namespace

Result<Config> load_config(const std::string& path) {
  std::vector<ConfigText> texts;
  auto main = read_text(path);
  if (!main) return main.error();
  texts.push_back(std::move(*main));
  auto more = fragments(fs::path(path));
  if (!more) return more.error();
  for (const fs::path& fragment : *more) {
    auto text = read_text(fragment);
    if (!text) return text.error();
    texts.push_back(std::move(*text));
  }
  auto config = parse_config(texts);
  if (config)
    if (auto secrets = read_chap_files(config->iscsi); !secrets) return secrets.error();
  return config;
}

Result<void> check_public(const Listener& listener, const Config& config) {
  if (!is_public(listener) || listener.insecure || config.insecure ||
      config.tls.mode == TlsConfig::Mode::require)
    return {};
  const char* who = listener.kind == Listener::Kind::vsock
                        ? "every guest of this host could read and write the devices"
                        : "anybody on the network could read and write the devices";
  return Error{Errc::permission,
               fmt::format("listener '{}' is public, and without tls.mode = \"require\" {}: set up "
                           "[tls], listen on 127.0.0.1, [::1] or a Unix socket, or say that it is "
                           "meant by insecure = true, for all of [server] or for this one: "
                           "{{address = \"{}\", insecure = true}}",
                           to_string(listener), who, to_string(listener))};
}

Result<void> check_not_truncated(const Config& before, const Config& now) {
  if (!now.main_empty || before.main_empty) return {};
  const auto lost =
      std::count_if(before.devices.begin(), before.devices.end(), [&](const DeviceSpec& device) {
        return std::none_of(now.devices.begin(), now.devices.end(),
                            [&](const DeviceSpec& d) { return d.name == device.name; });
      });
  if (lost == 0) return {};
  return Error{
      Errc::invalid,
      fmt::format("'{}' is empty, which would remove {} of {} configured devices: expected "
                  "at least one key; if it is meant, write [server] in it",
                  now.files.empty() ? std::string() : now.files.front(), lost,
                  before.devices.size())};
}

std::vector<std::string> warnings(const Config& config) {
  std::vector<std::string> found;
  const TlsConfig& tls = config.tls;
  const bool encrypted = tls.mode == TlsConfig::Mode::require;
  for (const Listener& listener : config.listen) {
    if (!is_public(listener)) continue;
    if (!encrypted)
      found.push_back(
          fmt::format("listener '{}' is public without TLS, as insecure = true says: "
                      "whoever reaches it reads and writes the devices",
                      to_string(listener)));
    else if (tls.psk.empty() && !tls.verify_peer)
      found.push_back(
          fmt::format("listener '{}' is public, and anybody with TLS is served: "
                      "tls.verify_peer = true or tls.psk would tell who may",
                      to_string(listener)));
  }
  return found;
}

std::vector<std::string> restart_settings(const Config& running, const Config& wanted) {
  std::vector<std::string> names;
  const auto note = [&](bool differs, const char* name) {
    if (differs) names.emplace_back(name);
  };
  note(running.listen != wanted.listen, "server.listen");
  note(running.control != wanted.control, "server.control");
  note(running.state_dir != wanted.state_dir, "server.state_dir");
  note(running.user != wanted.user, "server.user");
  note(running.group != wanted.group, "server.group");
  note(running.threads != wanted.threads, "server.threads");
  note(running.filters != wanted.filters, "server.filters");
  note(running.tls != wanted.tls, "tls");
  note(!same(running.limits, wanted.limits), "limits");
  note(running.dump != wanted.dump, "dump");
  return names;
}

Result<Duration> parse_duration(std::string_view text) {
  using namespace std::chrono;
  const auto bad = [&] {
    return Error{Errc::invalid,
                 fmt::format("'{}' is not a duration: expected a whole number and ms, s, m or h, "
                             "as in \"250ms\" or \"5s\", up to 24h",
                             text)};
  };
  std::uint64_t n = 0;
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), n);
  const std::string_view unit(end, static_cast<std::size_t>(text.data() + text.size() - end));
  constexpr std::uint64_t day_ms = 24ULL * 3600 * 1000;
  const std::uint64_t scale = unit == "ms"  ? 1
                              : unit == "s" ? 1000
                              : unit == "m" ? 60'000
                              : unit == "h" ? 3'600'000
                                            : 0;
  if (error != std::errc{} || scale == 0 || n > day_ms / scale) return bad();
  return Duration(milliseconds(n * scale));
}

}  // namespace blockloom
