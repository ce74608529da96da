#pragma once

#include <memory>
#include <string>
#include <vector>

#include "server/base/error.hpp"
#include "server/device/registry.hpp"
#include "server/iscsi/node.hpp"
#include "server/iscsi/options.hpp"

namespace blockloom::iscsi {

/// The iSCSI target of a process: portals, threads, node. One owner calls listen(), start(),
/// reload() and stop(); the registry outlives it. Options that are not enabled are an ordinary
/// state: it has no portal then, and before it was enabled for the first time no thread either.
///
/// Threads, all after start(): "bl-iscsi-acc" accepts, "bl-iscsi-N" carry connections,
/// "bl-iscsi-map" opens devices as they come.
class Server {
 public:
  Server(Registry& registry, IscsiOptions options);
  ~Server();  ///< stops
  Server(const Server&) = delete;
  Server& operator=(const Server&) = delete;

  /// Binds every portal, without a thread: the process may still fork.
  Result<void> listen();
  Result<void> start();

  /// Other portals, targets, access, limits; on or off. Sessions stay, but those that are not
  /// allowed any more. On an error (a portal that cannot be bound) nothing has changed. The notes
  /// say what waits for a restart. After start(), one call at a time.
  Result<std::vector<std::string>> reload(const IscsiOptions& options);

  /// Closes portals, and tells initiators that the target goes: no command of theirs is answered
  /// any more. Any thread; does not wait.
  void begin_stop();
  /// Closes portals and connections and joins all threads. The registry was shut down before, so
  /// that no task is held back. Idempotent.
  void stop();

  /// Null while it is not enabled. Any thread; what it gives lives as long as the server.
  Node* node() noexcept;
  /// "127.0.0.1:3260" of each portal, with the port that it got.
  std::vector<std::string> portals() const;

 private:
  class Impl;
  std::unique_ptr<Impl> impl_;
};

}  // namespace blockloom::iscsi
