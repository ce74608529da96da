#include "plugins/nbdkit/parameters.hpp"

#include <algorithm>
#include <cerrno>
#include <filesystem>

#include <fcntl.h>
#include <fmt/format.h>
#include <sys/stat.h>
#include <unistd.h>

#include "server/device/names.hpp"

namespace blockloom::nbd {
namespace {

/// parse_table()'s bound; a file beyond it is refused before it is read.
constexpr std::size_t max_table_bytes = 16u << 20;

Result<std::string> absolute_path(std::string_view key, std::string_view path) {
  if (path.empty())
    return Error{Errc::invalid, fmt::format("{}=: empty value, expected a path", key)};
  std::error_code error;
  std::filesystem::path full = std::filesystem::absolute(path, error);
  if (error) return system_error(fmt::format("{}={}", key, path), error.value());
  return full.string();
}

Result<std::string> read_table_file(std::string_view key, const std::string& path) {
  const std::string what = fmt::format("{}: table file '{}'", key, path);
  // Not blocking: opening a pipe nobody writes to would wait for ever.
  const int fd = ::open(path.c_str(), O_RDONLY | O_CLOEXEC | O_NONBLOCK);
  if (fd < 0) return system_error(what, errno);
  struct stat st {};
  if (::fstat(fd, &st) == 0 && S_ISDIR(st.st_mode)) {
    ::close(fd);
    return Error{Errc::invalid, what + ": is a folder, expected a file of table lines"};
  }
  std::string text;
  char buffer[16384];
  for (;;) {
    const ssize_t n = ::read(fd, buffer, sizeof buffer);
    if (n < 0 && errno == EINTR) continue;
    if (n < 0) {
      const int error_number = errno;
      ::close(fd);
      return system_error(what, error_number);
    }
    if (n == 0) break;
    text.append(buffer, static_cast<std::size_t>(n));
    if (text.size() > max_table_bytes) {
      ::close(fd);
      return Error{Errc::limit, what + ": longer than 16 MiB, which is the most a table may have"};
    }
  }
  ::close(fd);
  return text;
}

Result<bool> parse_bool(std::string_view key, std::string_view value) {
  if (value == "true" || value == "1" || value == "yes" || value == "on") return true;
  if (value == "false" || value == "0" || value == "no" || value == "off") return false;
  return Error{Errc::invalid, fmt::format("{}={}: expected true or false", key, value)};
}

/// A parameter that may be given once.
Result<void> set_once(std::string& field, std::string_view key, Result<std::string> value) {
  if (!value) return value.error();
  if (!field.empty())
    return Error{Errc::invalid, fmt::format("{}= is given twice, expected once", key)};
  field = std::move(*value);
  return {};
}

}  // namespace

const char* const parameters_help =
    "[table=]LINES          Serve one device, named 'default', with this table. LINES are\n"
    "                       \"START LENGTH TARGET ARGUMENTS…\" in sectors of 512 bytes, as "
    "dmsetup\n"
    "                       takes them; @FILE reads them from a file. May repeat: lines add up.\n"
    "device=NAME:LINES      The same for a device (an NBD export) of that name. May repeat.\n"
    "device=NAME:@FILE\n"
    "readonly=true          Make the devices of table= and device= read-only.\n"
    "config=FILE            Read devices, limits and the rest from a blockloom.toml.\n"
    "default=NAME           The device that clients get who name no export.\n"
    "control=SOCKET         Listen for the blockloom command on this Unix socket.\n"
    "iscsi=ADDRESS[:PORT]   Serve iSCSI there as well: each device is a LUN of one target.\n"
    "state=DIR              Keep run-time changes here, so that they outlive a restart.\n"
    "\n"
    "Example: two files side by side, in stripes of 128 sectors:\n"
    "  nbdkit blockloom table='0 4194304 striped 2 128 /a.img 0 /b.img 0'\n"
    "The manual pages: nbdkit-blockloom-plugin(1), blockloom-targets(7).";

Result<void> Parameters::add_table(std::string_view device, std::string_view key,
                                   std::string_view text) {
  std::string lines(text);
  if (text.starts_with('@')) {
    Result<std::string> path = absolute_path(key, text.substr(1));
    if (!path) return path.error();
    Result<std::string> file = read_table_file(key, *path);
    if (!file) return file.error();
    lines = std::move(*file);
  }
  auto& devices = options_.devices;
  auto known = std::find_if(devices.begin(), devices.end(),
                            [&](const DeviceSpec& d) { return d.name == device; });
  if (known == devices.end()) {
    DeviceSpec spec;
    spec.name = device;
    known = devices.insert(devices.end(), std::move(spec));
  }
  if (known->table.size() + lines.size() > max_table_bytes)
    return Error{Errc::limit, fmt::format("{}: the table of '{}' is longer than 16 MiB, which is "
                                          "the most a table may have",
                                          key, device)};
  known->table += lines;
  if (!known->table.ends_with('\n')) known->table += '\n';
  return {};
}

Result<void> Parameters::add_device(std::string_view value) {
  const std::size_t colon = value.find(':');
  if (colon == std::string_view::npos || colon == 0 || colon + 1 == value.size())
    return Error{Errc::invalid, fmt::format("device={}: expected NAME:TABLE or NAME:@FILE", value)};
  const std::string_view name = value.substr(0, colon);
  if (Result<void> good = check_device_name(name); !good) return good;
  return add_table(name, "device", value.substr(colon + 1));
}

Result<void> Parameters::add(std::string_view key, std::string_view value) {
  if (key == "table") return add_table(table_device, key, value);
  if (key == "device") return add_device(value);
  if (key == "config") return set_once(options_.config, key, absolute_path(key, value));
  if (key == "control") return set_once(options_.control_socket, key, absolute_path(key, value));
  if (key == "state") return set_once(options_.state_dir, key, absolute_path(key, value));
  if (key == "iscsi") {
    if (value.empty()) return Error{Errc::invalid, "iscsi=: empty value, expected ADDRESS[:PORT]"};
    return set_once(options_.iscsi, key, std::string(value));
  }
  if (key == "default") {
    if (value.empty())
      return Error{Errc::invalid, "default=: empty value, expected the name of a device"};
    return set_once(options_.default_device, key, std::string(value));
  }
  if (key == "readonly") {
    Result<bool> on = parse_bool(key, value);
    if (!on) return on.error();
    read_only_ = *on;
    return {};
  }
  return Error{Errc::invalid, fmt::format("unknown parameter '{}': expected table, device, "
                                          "readonly, config, default, control, iscsi or state",
                                          key)};
}

Result<EngineOptions> Parameters::finish() {
  if (options_.devices.empty() && options_.config.empty() && options_.control_socket.empty())
    return Error{Errc::invalid,
                 "nothing to serve: give table='START LENGTH TARGET …', device=NAME:TABLE, "
                 "config=FILE, or control=SOCKET to create devices later"};
  for (DeviceSpec& device : options_.devices)
    device.read_only = read_only_;
  return options_;
}

}  // namespace blockloom::nbd
