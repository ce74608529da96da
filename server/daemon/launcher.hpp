#pragma once

#include <string>
#include <vector>

#include "server/base/error.hpp"
#include "server/daemon/config.hpp"
#include "server/daemon/sockets.hpp"

namespace blockloom {

/// How blockloomd was called.
struct LaunchOptions {
  std::string config = "/etc/blockloom/blockloom.toml";
  std::string nbdkit = "nbdkit";  ///< a path, or a name to look up in PATH
  std::string plugin;             ///< empty: the build tree's, then the installed one
  bool verbose = false;
};

/// The programs and modules that serving takes, as absolute paths.
struct Programs {
  std::string nbdkit;
  std::string plugin;
};

/// Errors name what is missing and what to install or say.
Result<Programs> find_programs(const LaunchOptions& options);

/// What to execute. The sockets are handed over in the environment, so there is none of -i, -p
/// and -U; nbdkit stays in the foreground then.
std::vector<std::string> nbdkit_command(const Config& config, const LaunchOptions& options,
                                        const Programs& programs);

/// The words as a shell takes them.
std::string shell_line(const std::vector<std::string>& words);

/// Whom server.user and server.group name, with every group of that user.
struct Identity {
  bool change = false;  ///< false: the process stays who it is
  std::string user;     ///< for messages and initgroups
  Owner ids;
};
Result<Identity> find_identity(const Config& config);

/// Becomes that user, for good. The whole process; before threads start.
Result<void> become(const Identity& identity);

/// Opens or inherits the sockets, gives up root and executes nbdkit. Returns only if that failed.
Error launch(const Config& config, const LaunchOptions& options);

/// Everything short of serving: programs, filters, keys, legs and tables. The plan as text for a
/// person, or the first of what is wrong.
Result<std::string> check_all(const Config& config, const LaunchOptions& options);

}  // namespace blockloom
