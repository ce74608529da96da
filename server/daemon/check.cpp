#include <cerrno>
#include <filesystem>
#include <string_view>

#include <fcntl.h>
#include <fmt/format.h>
#include <spawn.h>
#include <sys/wait.h>
#include <unistd.h>

#include "server/base/size_text.hpp"
#include "server/daemon/launcher.hpp"
#include "server/target/table_line.hpp"

extern char** environ;

namespace blockloom {
namespace {

namespace fs = std::filesystem;

/// What a program prints; empty if it fails.
std::string output_of(const std::string& program, const char* argument) {
  int pipe_fds[2];
  if (::pipe2(pipe_fds, O_CLOEXEC) != 0) return {};
  UniqueFd reader(pipe_fds[0]), writer(pipe_fds[1]);
  posix_spawn_file_actions_t actions;
  ::posix_spawn_file_actions_init(&actions);
  ::posix_spawn_file_actions_adddup2(&actions, writer.get(), STDOUT_FILENO);
  char* const argv[] = {const_cast<char*>(program.c_str()), const_cast<char*>(argument), nullptr};
  pid_t child = 0;
  const int error = ::posix_spawn(&child, program.c_str(), &actions, nullptr, argv, environ);
  ::posix_spawn_file_actions_destroy(&actions);
  writer = UniqueFd();
  if (error != 0) return {};
  std::string text;
  char buffer[4096];
  for (ssize_t n; (n = ::read(reader.get(), buffer, sizeof buffer)) != 0;) {
    if (n < 0 && errno == EINTR) continue;
    if (n < 0 || text.size() > (1U << 20)) break;
    text.append(buffer, static_cast<std::size_t>(n));
  }
  reader = UniqueFd();
  int status = 0;
  while (::waitpid(child, &status, 0) < 0 && errno == EINTR) {
  }
  return status == 0 ? text : std::string();
}

/// "KEY=VALUE" lines, as nbdkit --dump-config prints.
std::string value_of(std::string_view text, std::string_view key) {
  while (!text.empty()) {
    const std::string_view line = text.substr(0, text.find('\n'));
    if (line.starts_with(key) && line.substr(key.size()).starts_with('='))
      return std::string(line.substr(key.size() + 1));
    text.remove_prefix(std::min(text.size(), line.size() + 1));
  }
  return {};
}

Result<void> readable(const std::string& path, std::string_view what) {
  if (::access(path.c_str(), R_OK) == 0) return {};
  return system_error(fmt::format("{} '{}'", what, path), errno);
}

Result<void> check_nbdkit(const Config& config, const Programs& programs) {
  const std::string about = output_of(programs.nbdkit, "--dump-config");
  const std::string folder = value_of(about, "filterdir");
  if (folder.empty())
    return Error{Errc::not_supported, fmt::format("'{} --dump-config' does not say where nbdkit's "
                                                  "filters are: expected nbdkit 1.32 or later",
                                                  programs.nbdkit)};
  for (const FilterConfig& filter : config.filters) {
    const std::string path = filter.name.starts_with('/')
                                 ? filter.name
                                 : fmt::format("{}/nbdkit-{}-filter.so", folder, filter.name);
    if (auto r = readable(path, fmt::format("filter '{}':", filter.name)); !r) return r;
  }
  if (config.tls.mode != TlsConfig::Mode::off && value_of(about, "tls") != "yes")
    return Error{Errc::not_supported,
                 fmt::format("tls.mode: '{}' was built without TLS", programs.nbdkit)};
  return {};
}

Result<void> check_keys(const TlsConfig& tls) {
  if (tls.mode == TlsConfig::Mode::off) return {};
  if (!tls.psk.empty()) return readable(tls.psk, "tls.psk");
  for (const char* name : {"ca-cert.pem", "server-cert.pem", "server-key.pem"})
    if (auto r = readable(tls.certificates + "/" + name, "tls.certificates:"); !r) return r;
  return {};
}

std::string plan(const Config& config, const LaunchOptions& options, const Programs& programs,
                 const Identity& who) {
  std::string text;
  const auto row = [&text](std::string_view name, std::string_view value) {
    text += fmt::format("{:<14} {}\n", name, value);
  };
  for (const std::string& file : config.files)
    row("configuration", file);
  if (config.listen.empty()) row("listen", "what is inherited, or tcp:127.0.0.1:10809");
  for (const Listener& l : config.listen) {
    const std::string mode =
        l.kind == Listener::Kind::unix_socket ? fmt::format(", mode {:04o}", l.mode) : "";
    row("listen", to_string(l) + mode + (is_public(l) ? ", public" : ""));
  }
  const TlsConfig& tls = config.tls;
  if (tls.mode == TlsConfig::Mode::off)
    row("TLS", "off");
  else
    row("TLS", fmt::format("{}, {}", tls.mode == TlsConfig::Mode::on ? "on" : "required",
                           tls.psk.empty() ? "certificates in " + tls.certificates +
                                                 (tls.verify_peer ? ", of clients too" : "")
                                           : "keys in " + tls.psk));
  for (const FilterConfig& filter : config.filters)
    row("filter", filter.name);
  if (config.iscsi.enabled) {
    const iscsi::IscsiOptions served = iscsi::with_defaults(config.iscsi);
    for (const iscsi::PortalOptions& portal : served.portals)
      row("iSCSI portal", to_string(portal) + (is_public(portal) ? ", public" : ""));
    for (const iscsi::TargetOptions& target : served.targets)
      row("iSCSI target",
          fmt::format("{}: {}{}", target.name,
                      target.all_devices ? "every device"
                                         : fmt::format("{} LUN{}", target.luns.size(),
                                                       target.luns.size() == 1 ? "" : "s"),
                      target.chap.required() ? ", CHAP" : ""));
  }
  row("control", config.control.empty() ? "none" : config.control);
  row("saved state", config.state_dir.empty() ? "none" : config.state_dir);
  if (who.change)
    row("runs as",
        fmt::format("user {}, group {}", who.user.empty() ? "unchanged" : who.user, who.ids.group));
  for (const DeviceSpec& spec : config.devices) {
    std::uint64_t end = 0;
    std::size_t targets = 0;
    if (const auto lines = parse_table(spec.table))
      for (const TableLine& line : lines.value()) {
        end = std::max(end, (line.start + line.length).value);
        ++targets;
      }
    row("device", fmt::format("{}: {} sectors ({}), {} target{}{}", spec.name, end,
                              size_text(end * sector_size), targets, targets == 1 ? "" : "s",
                              spec.read_only ? ", read-only" : ""));
  }
  row("command", shell_line(nbdkit_command(config, options, programs)));
  return text;
}

}  // namespace

Result<std::string> check_all(const Config& config, const LaunchOptions& options) {
  auto programs = find_programs(options);
  if (!programs) return programs.error();
  auto who = find_identity(config);
  if (!who) return who.error();
  // As the server will: with the rights that it will have.
  if (auto became = become(*who); !became) return became.error();
  if (auto r = check_nbdkit(config, *programs); !r) return r.error();
  if (auto r = check_keys(config.tls); !r) return r.error();
  Registry registry(config.limits);
  if (auto r = registry.check(config.devices); !r) return r.error();
  return plan(config, options, *programs, *who);
}

}  // namespace blockloom
