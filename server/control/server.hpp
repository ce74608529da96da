#pragma once

#include <chrono>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "proto/control/value.hpp"
#include "server/base/clock.hpp"
#include "server/base/error.hpp"
#include "server/device/registry.hpp"

namespace blockloom::control {

class Params;

/// Where NBD clients attach: what `attach-help` prints lines for.
struct Endpoint {
  enum class Kind : std::uint8_t { tcp, unix_socket, vsock };
  Kind kind = Kind::tcp;
  std::string address;  ///< host or address; path of the socket, absolute; empty for any
  std::uint32_t port = 10809;
  bool tls = false;  ///< clients have to use TLS
};

struct ServerLimits {
  std::size_t connections = 64;
  std::size_t outstanding = 64;                             ///< requests of one connection
  std::size_t request_bytes = std::size_t{16} << 20;        ///< of one request
  std::size_t total_request_bytes = std::size_t{64} << 20;  ///< unread, of all connections
  std::size_t reply_bytes = std::size_t{64} << 20;          ///< of one reply
  std::size_t backlog_bytes = std::size_t{8} << 20;         ///< unsent, of one connection
  Duration write_timeout = std::chrono::seconds(30);        ///< without a byte taken
  std::size_t change_threads = 4;                           ///< verbs that change something
  std::size_t query_threads = 2;                            ///< verbs that only ask
  std::size_t queued_verbs = 256;                           ///< for each kind of thread
};

struct Verb;

struct Options {
  std::string socket_path;                      ///< absolute
  std::function<std::string()> default_device;  ///< what an empty export name opens now; any thread
  std::vector<Endpoint> endpoints;

  /// `reload`: reads the configuration again. Empty: there is none to read. May wait; one call
  /// at a time is the callee's business.
  std::function<Result<ApplyReport>()> reload;

  /// The devices in a configuration text, for `apply` and `check`; `name` is for messages. Empty:
  /// only lists of devices are taken. Any thread.
  std::function<Result<std::vector<DeviceSpec>>(std::string_view text, const std::string& name)>
      parse_config;

  /// What the verbs that begin with "iscsi_" answer, by the rest of their names. Empty: this
  /// server has no iSCSI target. Any thread; may wait.
  std::function<Result<rpc::Value>(std::string_view verb, const Params& params)> iscsi;

  /// Verbs of other parts of the process, beside the built-in ones. Null: none.
  std::shared_ptr<const std::vector<Verb>> more_verbs;

  ServerLimits limits;
};

/// The control socket: JSON-RPC 2.0, one text a line, as docs/control-api.md says. One thread
/// ("bl-control") has the sockets; verbs that may wait run on few others ("bl-change-N",
/// "bl-query-N"); `wait` and `events` hold none. Only the server's own user and root are served.
///
/// listen(), start() and stop() are called by one owner. The registry outlives the server.
class Server {
 public:
  Server(Registry& registry, Options options);
  ~Server();  ///< stops
  Server(const Server&) = delete;
  Server& operator=(const Server&) = delete;

  /// For a frontend that knows its listeners only after the fork. Before start().
  void set_endpoints(std::vector<Endpoint> endpoints);

  /// Makes the socket (mode 0600), replacing a stale one that nobody listens on. Starts no
  /// thread: the process may still fork. Errc::busy if another server has it.
  Result<void> listen();

  /// Starts to serve; calls listen() if that was not done.
  Result<void> start();

  /// Ends all connections, joins all threads, removes the socket. A verb that is still waiting in
  /// the registry after two seconds is ended by shutting the registry down. Idempotent.
  void stop();

  /// Whether start() succeeded and stop() was not called.
  bool running() const noexcept;

 private:
  class Impl;
  std::unique_ptr<Impl> impl_;
};

}  // namespace blockloom::control
