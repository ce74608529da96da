#pragma once

#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "server/base/error.hpp"
#include "server/device/registry.hpp"

namespace blockloom {

/// What the process was asked to serve.
struct EngineOptions {
  std::string config;               ///< path of blockloom.toml, absolute; empty: none
  std::vector<DeviceSpec> devices;  ///< given by hand (table=, device=), beside the file's
  std::string
      default_device;  ///< what an empty export name opens; empty: the file's, or the only one
  std::string control_socket;  ///< overrides the file's; empty: the file's, or none
  std::string state_dir;       ///< overrides the file's; empty: the file's, or none
  std::string iscsi;  ///< "ADDRESS[:PORT]": serves iSCSI there, instead of at the file's portals
};

/// The whole engine in one process: registry, control socket, reload. The frontend makes one.
class Engine {
 public:
  /// Reads the configuration and opens every device. Starts no thread: the process may still
  /// fork. Errors are for the terminal.
  static Result<std::unique_ptr<Engine>> create(EngineOptions options);
  ~Engine();

  /// After the fork: starts the control socket, takes SIGHUP over for reload, tells systemd.
  Result<void> start();

  /// Reads the configuration again and applies what changed; on any error the old one stays.
  Result<ApplyReport> reload();

  /// The process is quitting: ends every request that waits, so that no worker hangs. Idempotent,
  /// any thread.
  void begin_shut_down();

  Registry& registry() noexcept;

  /// What a client opens by a name that begins with "dump/": a finished crash dump, read-only.
  /// `dump`: what follows. Errc::not_found also where no dumps are taken in.
  Result<DeviceHandle> open_dump(std::string_view dump);
  struct DumpExport {
    std::string name, description;
  };
  std::vector<DumpExport> dump_exports() const;
  /// What an empty export name opens; empty: nothing does.
  std::string default_device() const;
  /// False: clients are not told the names of devices (NBD_OPT_LIST), and have to know them.
  bool advertise() const noexcept;

 private:
  struct State;
  explicit Engine(std::unique_ptr<State> state);
  Result<void> open_control();
  Result<void> open_iscsi();
  Result<void> open_dumps();

  std::unique_ptr<State> state_;
};

}  // namespace blockloom
