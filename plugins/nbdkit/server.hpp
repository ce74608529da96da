#pragma once

#include <list>
#include <memory>
#include <mutex>
#include <string>
#include <vector>

#include "plugins/nbdkit/epochs.hpp"
#include "plugins/nbdkit/parameters.hpp"
#include "plugins/nbdkit/quit_watcher.hpp"
#include "plugins/nbdkit/socket_hooks.hpp"
#include "server/base/error.hpp"
#include "server/daemon/engine.hpp"
#include "server/device/registry.hpp"

namespace blockloom::nbd {

/// A client's hold on a device: what nbdkit calls a handle. Size and mode are those of the
/// moment it was opened, because NBD has no way to tell a client that they changed.
struct Connection {
  DeviceHandle device;
  Bytes size;
  bool read_only = false;
  std::shared_ptr<EpochGate> gate;
  std::uint64_t epoch = 0;  ///< it was opened as NAME;epoch=N; 0: as NAME
  std::string description;  ///< what the client is told; nbdkit copies it
};

/// Everything the plugin holds, from .load to .unload. The callbacks in plugin.cpp turn nbdkit's
/// calls into these; this knows nothing of nbdkit.
class Server {
 public:
  Server() = default;
  Server(const Server&) = delete;
  Server& operator=(const Server&) = delete;

  struct Export {
    std::string name;
    std::string description;
  };

  Parameters& parameters() noexcept { return parameters_; }

  /// .config_complete: are the parameters enough?
  Result<void> check_parameters();
  /// .get_ready: reads and validates everything. No thread yet.
  Result<void> get_ready();
  /// .after_fork: threads.
  Result<void> start();
  /// .cleanup: ends what waits, and hangs up on everyone. Idempotent. nbdkit may still have a
  /// client then, one that it accepted in the very moment of quitting, and calls for it; so
  /// devices stay until .unload, which nbdkit holds back until the last connection's end.
  void stop() noexcept;
  ~Server();

  /// The device behind the empty export name; empty when that is nobody's.
  std::string default_export() const;
  /// What clients may be told of: devices with a table.
  std::vector<Export> exports() const;

  /// Opens a device for a client: NAME, NAME;epoch=N or NAME;epoch=? (server/leg/nbd_epoch.hpp).
  /// nbdkit opens and closes it for NBD_OPT_INFO as well, and cannot say which it is: so a question
  /// about an epoch opens that epoch. The pointer stays valid until close().
  Result<Connection*> open(std::string_view export_name, bool read_only);
  void close(Connection* connection) noexcept;

 private:
  Parameters parameters_;
  EngineOptions options_;
  std::unique_ptr<Engine> engine_;
  QuitWatcher watcher_;
  SocketHooks socket_hooks_;

  EpochGates epoch_gates_;
  std::mutex connections_mutex_;
  std::list<Connection> connections_;  // nbdkit does not close all of them when it quits
};

}  // namespace blockloom::nbd
