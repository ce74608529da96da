// blockloomd: reads the configuration, opens the sockets and becomes nbdkit with the plugin.

#include <cstdio>
#include <filesystem>
#include <string>

#include <CLI/CLI.hpp>

#include "server/daemon/launcher.hpp"

namespace {

using namespace blockloom;

// What blockloomd(8) promises.
enum Exit : int { good = 0, bad_configuration = 1, usage = 2, system_failed = 3 };

int complain(const Error& error, Exit code) {
  std::fprintf(stderr, "blockloomd: %s\n", error.message.c_str());
  return code;
}

struct Command {
  LaunchOptions options;
  bool check = false;
  bool print = false;
};

int run(const Command& command) {
  const LaunchOptions& options = command.options;
  auto config = load_config(options.config);
  if (!config) return complain(config.error(), bad_configuration);
  for (const std::string& warning : warnings(*config))
    std::fprintf(stderr, "blockloomd: warning: %s\n", warning.c_str());
  if (command.check) {
    auto plan = check_all(*config, options);
    if (!plan) return complain(plan.error(), bad_configuration);
    std::fputs(plan->c_str(), stdout);
    return good;
  }
  if (command.print) {
    auto programs = find_programs(options);
    if (!programs) return complain(programs.error(), system_failed);
    std::puts(shell_line(nbdkit_command(*config, options, *programs)).c_str());
    return good;
  }
  return complain(launch(*config, options), system_failed);
}

}  // namespace

int main(int argc, char** argv) {
  CLI::App app{"Blockloom's network block device server"};
  app.name("blockloomd");
  Command command;
  LaunchOptions& options = command.options;
  app.add_option("-c,--config,FILE", options.config, "the configuration")->capture_default_str();
  app.add_flag("--check", command.check,
               "check the configuration with its legs and tables, print the plan, and end");
  app.add_flag("--print-command", command.print, "print the nbdkit command, and end");
  app.add_option("--nbdkit", options.nbdkit, "the nbdkit to run")->capture_default_str();
  app.add_option("--plugin", options.plugin, "the plugin (nbdkit-blockloom-plugin.so) to load");
  bool foreground = true;
  app.add_flag("-f,--foreground", foreground,
               "stay in the foreground, which blockloomd always does");
  app.add_flag("-v,--verbose", options.verbose, "let nbdkit print debug messages");
  app.set_version_flag("-V,--version", "blockloomd " BLOCKLOOM_VERSION);
  try {
    app.parse(argc, argv);
  } catch (const CLI::ParseError& error) {
    return app.exit(error) == 0 ? good : usage;
  }
  std::error_code failed;
  if (const auto path = std::filesystem::absolute(options.config, failed); !failed)
    options.config = path.lexically_normal().string();
  return run(command);
}
