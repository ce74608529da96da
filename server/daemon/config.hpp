#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "server/base/error.hpp"
#include "server/daemon/listener.hpp"
#include "server/device/device.hpp"
#include "server/device/registry.hpp"
#include "server/dump/options.hpp"
#include "server/iscsi/options.hpp"

namespace blockloom {

/// An nbdkit filter in front of the plugin, with its parameters in the order of their names.
struct FilterConfig {
  std::string name;
  std::vector<std::pair<std::string, std::string>> params;
  bool operator==(const FilterConfig&) const = default;
};

struct TlsConfig {
  enum class Mode : std::uint8_t { off, on, require };
  Mode mode = Mode::off;
  std::string certificates;  ///< a directory; empty: nbdkit's own default, unless psk is set
  std::string psk;           ///< a file of pre-shared keys
  bool verify_peer = false;
  bool operator==(const TlsConfig&) const = default;
};

/// blockloom.toml with its conf.d/*.toml: what docs/blockloom.toml.5.scd describes.
struct Config {
  std::vector<std::string> files;  ///< that were read, in order
  bool main_empty = false;         ///< the first of them holds no key at all

  std::vector<Listener> listen;
  std::string control, state_dir, user, group;
  std::string default_device;
  bool insecure = false;
  bool advertise = true;
  unsigned threads = 0;  ///< per connection; 0: nbdkit's own choice
  std::vector<FilterConfig> filters;
  TlsConfig tls;
  DeviceLimits limits;
  dump::Options dump;
  std::vector<DeviceSpec> devices;
  iscsi::IscsiOptions iscsi;
};

/// One text to read, and what to call it in messages.
struct ConfigText {
  std::string name;
  std::string text;
};

/// Reads the file, then conf.d/*.toml beside it in the order of their names. Every error is told
/// (up to 20, one a line), as "FILE:LINE:COLUMN: what is wrong and what was expected".
Result<Config> load_config(const std::string& path);

/// The same for texts in memory, in this order.
Result<Config> parse_config(const std::vector<ConfigText>& texts);

/// A text that holds only [[device]] entries: what `apply` and `check` are given.
Result<std::vector<DeviceSpec>> parse_devices(const ConfigText& text);

/// Refuses a public listener without TLS, unless it or the whole configuration says `insecure`.
Result<void> check_public(const Listener& listener, const Config& config);

/// What is allowed, and worth a second thought: a sentence each.
std::vector<std::string> warnings(const Config& config);

/// Refuses an empty file that held something before, if devices would go for it: it was truncated.
Result<void> check_not_truncated(const Config& before, const Config& now);

/// Settings that differ and that a running server cannot change ("server.listen").
std::vector<std::string> restart_settings(const Config& running, const Config& wanted);

/// "5s", "250ms", "2m", "1h": a whole number and its unit.
Result<Duration> parse_duration(std::string_view text);

}  // namespace blockloom
