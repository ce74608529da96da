#include "plugins/nbdkit/server.hpp"

#include <fmt/format.h>

#include "server/base/log.hpp"

namespace blockloom::nbd {

Result<void> Server::check_parameters() {
  Result<EngineOptions> options = parameters_.finish();
  if (!options) return options.error();
  options_ = std::move(*options);
  return {};
}

Result<void> Server::get_ready() {
  Result<std::unique_ptr<Engine>> engine = Engine::create(options_);
  if (!engine) return engine.error();
  engine_ = std::move(*engine);
  // Without a configuration and a control socket nobody could make it later.
  if (!options_.default_device.empty() && options_.config.empty() &&
      options_.control_socket.empty() && !engine_->registry().find(options_.default_device))
    return Error{Errc::not_found,
                 fmt::format("default={}: no device of that name", options_.default_device)};
  return {};
}

Result<void> Server::start() {
  watcher_.note_listeners();
  if (!socket_hooks_.install())
    log_warning(
        "nbdkit serves with its own socket calls, slower and without guard against clients that "
        "die: its imports are not as expected");
  Result<void> started = engine_->start();
  if (started) started = watcher_.start([this] { engine_->begin_shut_down(); });
  if (!started) stop();
  return started;
}

void Server::stop() noexcept {
  watcher_.stop();
  if (engine_) engine_->begin_shut_down();
}

Server::~Server() {
  stop();
  socket_hooks_.remove();
  connections_.clear();
  engine_.reset();
}

std::string Server::default_export() const {
  return engine_->default_device();
}

std::vector<Server::Export> Server::exports() const {
  std::vector<Export> result;
  if (!engine_->advertise()) return result;
  for (const auto& device : engine_->registry().list()) {
    const DeviceInfo info = device->info();
    if (info.live_table) result.push_back({info.name, info.description});
  }
  return result;
}

Result<Connection*> Server::open(std::string_view export_name, bool read_only) {
  const std::string name = export_name.empty() ? default_export() : std::string(export_name);
  if (name.empty())
    return Error{Errc::not_found,
                 "the client named no export and there is no default device: name one, or say "
                 "default=NAME"};
  Result<DeviceHandle> device = engine_->registry().open(name);
  if (!device) return device.error();
  // Its size is asked once a connection: a client of a device without a table would keep the 0.
  if (!(*device)->live_table())
    return Error{Errc::busy, fmt::format("device '{}' has no live table yet", name)};
  const std::lock_guard lock(connections_mutex_);
  Connection& connection = connections_.emplace_back();
  connection.device = std::move(*device);
  connection.size = connection.device->size();
  connection.read_only = read_only || connection.device->read_only();
  return &connection;
}

void Server::close(Connection* connection) noexcept {
  std::list<Connection> closed;  // ends after the lock
  const std::lock_guard lock(connections_mutex_);
  for (auto it = connections_.begin(); it != connections_.end(); ++it) {
    if (&*it == connection) {
      closed.splice(closed.begin(), connections_, it);
      return;
    }
  }
}

}  // namespace blockloom::nbd
