#include "server/daemon/launcher.hpp"

#include <cerrno>
#include <cstdlib>
#include <filesystem>
#include <string_view>

#include <fmt/format.h>
#include <grp.h>
#include <pwd.h>
#include <sys/resource.h>
#include <unistd.h>

#include "proto/text/number.hpp"

#ifndef BLOCKLOOM_PLUGIN
#error "BLOCKLOOM_PLUGIN, the path of the installed plugin, comes from meson.build"
#endif

namespace blockloom {
namespace {

namespace fs = std::filesystem;

bool is_program(const std::string& path) {
  std::error_code failed;
  return fs::is_regular_file(path, failed) && ::access(path.c_str(), X_OK) == 0;
}

std::string absolute(const std::string& path) {
  std::error_code failed;
  const fs::path result = fs::absolute(path, failed);
  return failed ? path : result.lexically_normal().string();
}

Result<std::string> find_nbdkit(const std::string& name) {
  if (name.find('/') != std::string::npos) {
    if (is_program(name)) return absolute(name);
    return Error{Errc::not_found, fmt::format("nbdkit '{}': expected a program", name)};
  }
  const char* path = std::getenv("PATH");
  std::string_view rest = path != nullptr ? path : "/usr/sbin:/usr/bin:/sbin:/bin";
  while (!rest.empty()) {
    const std::size_t colon = rest.find(':');
    const std::string folder(rest.substr(0, colon));
    if (const std::string found = folder + "/" + name; !folder.empty() && is_program(found))
      return absolute(found);
    rest.remove_prefix(colon == std::string_view::npos ? rest.size() : colon + 1);
  }
  return Error{
      Errc::not_found,
      fmt::format("'{}' is not in PATH: install nbdkit, or say where it is with --nbdkit", name)};
}

Result<std::string> find_plugin(const std::string& given) {
  if (!given.empty()) {
    if (::access(given.c_str(), R_OK) == 0) return absolute(given);
    return system_error(fmt::format("plugin '{}'", given), errno);
  }
  // In a build tree: the plugin beside this very program, not an older one that is installed.
  std::error_code failed;
  const fs::path self = fs::read_symlink("/proc/self/exe", failed);
  const fs::path built = self.parent_path() / "../../plugins/nbdkit/nbdkit-blockloom-plugin.so";
  if (!failed && self.parent_path().filename() == "daemon" && fs::exists(built, failed))
    return built.lexically_normal().string();
  if (::access(BLOCKLOOM_PLUGIN, R_OK) == 0) return std::string(BLOCKLOOM_PLUGIN);
  return Error{Errc::not_found, fmt::format("the plugin is not at '{}': install Blockloom, or say "
                                            "where it is with --plugin",
                                            BLOCKLOOM_PLUGIN)};
}

const char* mode_text(TlsConfig::Mode mode) {
  return mode == TlsConfig::Mode::off ? "off" : mode == TlsConfig::Mode::on ? "on" : "require";
}

/// A number, or the name's id by `lookup`, which gives null for an unknown name.
template <class Lookup>
Result<unsigned> find_id(const std::string& name, const char* what, Lookup lookup) {
  unsigned id = 0;
  if (parse_whole(name, id)) return id;
  errno = 0;
  if (lookup(name.c_str(), id)) return id;
  return Error{Errc::not_found, fmt::format("{} '{}': there is none of that name", what, name)};
}

/// nbdkit polls, so it takes as many descriptors as it may have; each leg and client is one.
void raise_descriptor_limit() {
  rlimit limit{};
  if (::getrlimit(RLIMIT_NOFILE, &limit) == 0 && limit.rlim_cur < limit.rlim_max) {
    limit.rlim_cur = limit.rlim_max;
    ::setrlimit(RLIMIT_NOFILE, &limit);
  }
}

}  // namespace

Result<Programs> find_programs(const LaunchOptions& options) {
  auto nbdkit = find_nbdkit(options.nbdkit);
  if (!nbdkit) return nbdkit.error();
  auto plugin = find_plugin(options.plugin);
  if (!plugin) return plugin.error();
  return Programs{std::move(*nbdkit), std::move(*plugin)};
}

std::vector<std::string> nbdkit_command(const Config& config, const LaunchOptions& options,
                                        const Programs& programs) {
  std::vector<std::string> words{programs.nbdkit, "--foreground"};
  if (options.verbose) words.emplace_back("--verbose");
  if (config.threads != 0) words.push_back(fmt::format("--threads={}", config.threads));
  words.push_back(fmt::format("--tls={}", mode_text(config.tls.mode)));
  if (config.tls.mode != TlsConfig::Mode::off) {
    if (!config.tls.certificates.empty())
      words.push_back("--tls-certificates=" + config.tls.certificates);
    if (!config.tls.psk.empty()) words.push_back("--tls-psk=" + config.tls.psk);
    if (config.tls.verify_peer) words.emplace_back("--tls-verify-peer");
  }
  for (const FilterConfig& filter : config.filters)
    words.push_back("--filter=" + filter.name);
  words.push_back(programs.plugin);
  words.push_back("config=" + absolute(options.config));
  for (const FilterConfig& filter : config.filters)
    for (const auto& [key, value] : filter.params)
      words.push_back(key + "=" + value);
  return words;
}

std::string shell_line(const std::vector<std::string>& words) {
  constexpr std::string_view safe =
      "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_-+=:,./@%";
  std::string line;
  for (const std::string& word : words) {
    line += line.empty() ? "" : " ";
    if (!word.empty() && word.find_first_not_of(safe) == std::string::npos) {
      line += word;
      continue;
    }
    line += '\'';
    for (const char c : word)
      line += c == '\'' ? std::string("'\\''") : std::string(1, c);
    line += '\'';
  }
  return line;
}

Result<Identity> find_identity(const Config& config) {
  Identity who;
  if (config.user.empty() && config.group.empty()) return who;
  who.user = config.user;
  if (!config.user.empty()) {
    auto uid = find_id(config.user, "server.user", [&](const char* name, unsigned& id) {
      const passwd* entry = ::getpwnam(name);
      if (entry == nullptr) return false;
      id = entry->pw_uid;
      return true;
    });
    if (!uid) return uid.error();
    who.ids.user = *uid;
    if (const passwd* entry = ::getpwuid(*uid)) {
      who.user = entry->pw_name;
      who.ids.group = entry->pw_gid;
    }
  }
  if (!config.group.empty()) {
    auto gid = find_id(config.group, "server.group", [&](const char* name, unsigned& id) {
      const group* entry = ::getgrnam(name);
      if (entry == nullptr) return false;
      id = entry->gr_gid;
      return true;
    });
    if (!gid) return gid.error();
    who.ids.group = *gid;
  }
  if (who.ids.group == static_cast<gid_t>(-1))
    return Error{Errc::invalid, fmt::format("server.user '{}' is a number without an account: "
                                            "server.group has to be given too",
                                            config.user)};
  const bool user_stays = config.user.empty() || who.ids.user == ::geteuid();
  who.change = !(user_stays && who.ids.group == ::getegid());
  if (who.change && ::geteuid() != 0)
    return Error{Errc::permission,
                 fmt::format("server.user and server.group: only root can become '{}'",
                             config.user.empty() ? config.group : config.user)};
  return who;
}

Result<void> become(const Identity& who) {
  if (!who.change) return {};
  const std::string what = fmt::format("cannot become user {} group {}", who.user, who.ids.group);
  const bool named = !who.user.empty() && ::getpwnam(who.user.c_str()) != nullptr;
  if ((named ? ::initgroups(who.user.c_str(), who.ids.group) : ::setgroups(1, &who.ids.group)) != 0)
    return system_error(what, errno);
  if (::setresgid(who.ids.group, who.ids.group, who.ids.group) != 0)
    return system_error(what, errno);
  if (who.ids.user == static_cast<uid_t>(-1)) return {};
  if (::setresuid(who.ids.user, who.ids.user, who.ids.user) != 0) return system_error(what, errno);
  if (who.ids.user != 0 && ::setuid(0) == 0)
    return Error{Errc::permission, what + ": root could be taken back"};
  return {};
}

Error launch(const Config& config, const LaunchOptions& options) {
  auto programs = find_programs(options);
  if (!programs) return programs.error();
  auto who = find_identity(config);
  if (!who) return who.error();
  auto sockets = inherit_sockets(config);
  if (!sockets) return sockets.error();
  if (auto opened = open_sockets(config, who->ids, *sockets); !opened) return opened.error();
  raise_descriptor_limit();
  if (auto became = become(*who); !became) return became.error();
  if (auto handed = hand_over(std::move(*sockets)); !handed) return handed.error();

  std::vector<std::string> words = nbdkit_command(config, options, *programs);
  std::vector<char*> argv;
  for (std::string& word : words)
    argv.push_back(word.data());
  argv.push_back(nullptr);
  ::execv(argv.front(), argv.data());
  return system_error(fmt::format("cannot run '{}'", words.front()), errno);
}

}  // namespace blockloom
