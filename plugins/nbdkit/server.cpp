#include "plugins/nbdkit/server.hpp"

#include <fmt/format.h>

#include "server/base/fork_point.hpp"
#include "server/base/log.hpp"
#include "server/leg/nbd_epoch.hpp"

namespace blockloom::nbd {
namespace {

/// For the requests of older epochs to end. A client that hangs up earlier finds it done when it
/// comes back.
constexpr Duration longest_epoch_wait = std::chrono::seconds(10);

}  // namespace

Result<void> Server::check_parameters() {
  Result<EngineOptions> options = parameters_.finish();
  if (!options) return options.error();
  options_ = std::move(*options);
  return {};
}

Result<void> Server::get_ready() {
  hold_threads();  // nbdkit has not forked yet
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
  release_threads();
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
    if (!device->claim().empty()) continue;  // no client may open it
    const DeviceInfo info = device->info();
    if (info.live_table) result.push_back({info.name, info.description});
  }
  for (Engine::DumpExport& dump : engine_->dump_exports())
    result.push_back({std::move(dump.name), std::move(dump.description)});
  return result;
}

Result<Connection*> Server::open(std::string_view export_name, bool read_only) {
  Result<EpochExport> wanted = parse_epoch_export(export_name);
  if (!wanted) return wanted.error();
  const std::string name = wanted->device.empty() ? default_export() : std::string(wanted->device);
  if (name.empty())
    return Error{Errc::not_found,
                 "the client named no export and there is no default device: name one, or say "
                 "default=NAME"};
  constexpr std::string_view dumps = "dump/";  // no device has a '/' in its name
  const bool dump = name.starts_with(dumps);
  if (dump && wanted->kind != EpochExport::Kind::none)
    return Error{Errc::invalid, fmt::format("'{}': a crash dump has no epochs", name)};
  Result<DeviceHandle> device =
      dump ? engine_->open_dump(std::string_view(name).substr(dumps.size()))
           : engine_->registry().open(name);
  if (!device) return device.error();
  // Its size is asked once a connection: a client of a device without a table would keep the 0.
  if (!(*device)->live_table())
    return Error{Errc::busy, fmt::format("device '{}' has no live table yet", name)};
  std::string description = (*device)->info().description;
  // Dumps are numbered for themselves: no device's gate is theirs.
  std::shared_ptr<EpochGate> gate =
      dump ? std::make_shared<EpochGate>(0) : epoch_gates_.of(**device);
  if (wanted->kind == EpochExport::Kind::epoch) {
    const auto raised = gate->raise(engine_->registry(), **device, wanted->epoch,
                                    Clock::now() + longest_epoch_wait);
    if (!raised) return raised.error();
    description = epoch_description(wanted->epoch, description);
  } else if (wanted->kind == EpochExport::Kind::query) {
    read_only = true;
    description = epoch_description((*device)->epoch(), description);
  }
  const std::lock_guard lock(connections_mutex_);
  Connection& connection = connections_.emplace_back();
  connection.device = std::move(*device);
  connection.size = connection.device->size();
  connection.read_only = read_only || connection.device->read_only();
  connection.gate = std::move(gate);
  connection.epoch = wanted->epoch;
  connection.description = std::move(description);
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
