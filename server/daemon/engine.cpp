#include "server/daemon/engine.hpp"

#include <algorithm>
#include <atomic>
#include <mutex>
#include <string_view>
#include <utility>

#include <fmt/format.h>

#include "server/base/log.hpp"
#include "server/control/server.hpp"
#include "server/daemon/config.hpp"
#include "server/daemon/config_iscsi.hpp"
#include "server/daemon/dump_control.hpp"
#include "server/daemon/dump_exports.hpp"
#include "server/daemon/endpoints.hpp"
#include "server/daemon/hangup.hpp"
#include "server/daemon/iscsi_verbs.hpp"
#include "server/daemon/readiness.hpp"
#include "server/device/state_store.hpp"
#include "server/dump/device_back_end.hpp"
#include "server/iscsi/server.hpp"

namespace blockloom {
namespace {

std::string serving(const Registry& registry) {
  const auto devices = registry.list();
  const auto failed = std::count_if(devices.begin(), devices.end(),
                                    [](const auto& d) { return !d->info().failure.empty(); });
  std::string text =
      fmt::format("serving {} device{}", devices.size(), devices.size() == 1 ? "" : "s");
  return failed == 0 ? text : fmt::format("{}, {} of them without a table", text, failed);
}

/// The file's devices and those given by hand, which have no place to name.
Result<std::vector<DeviceSpec>> merged(const Config& config, const EngineOptions& options) {
  std::vector<DeviceSpec> all = config.devices;
  for (const DeviceSpec& spec : options.devices) {
    const bool taken = std::any_of(config.devices.begin(), config.devices.end(),
                                   [&](const DeviceSpec& d) { return d.name == spec.name; });
    if (taken)
      return Error{Errc::exists, fmt::format("device '{}' is given by hand and in '{}': expected "
                                             "one of them",
                                             spec.name, options.config)};
    all.push_back(spec);
  }
  return all;
}

/// The settings that count, of which those given by hand win.
Result<Config> effective(Config config, const EngineOptions& options) {
  if (!options.control_socket.empty()) config.control = options.control_socket;
  if (!options.state_dir.empty()) config.state_dir = options.state_dir;
  if (!options.default_device.empty()) config.default_device = options.default_device;
  if (!options.iscsi.empty()) {
    auto portal = iscsi::parse_portal(options.iscsi);
    if (!portal) return portal.error();
    config.iscsi.enabled = true;
    if (auto allowed = check_public(*portal, config.iscsi); !allowed) return allowed.error();
    config.iscsi.portals = {std::move(*portal)};
  }
  if (!config.state_dir.empty()) config.iscsi.state_folder = config.state_dir + "/reservations";
  return config;
}

std::string summary(const ApplyReport& report) {
  return fmt::format("last reload: {} created, {} swapped, {} removed, {} unchanged",
                     report.created.size(), report.swapped.size(), report.removed.size(),
                     report.unchanged.size());
}

/// Several mistakes are several lines of the log.
void log_lines(LogLevel level, std::string_view prefix, std::string_view text) {
  while (!text.empty()) {
    const std::string_view line = text.substr(0, text.find('\n'));
    log(level, fmt::format("{}{}", prefix, line));
    text.remove_prefix(std::min(text.size(), line.size() + 1));
  }
}

}  // namespace

struct Engine::State {
  State(EngineOptions o, Config c)
      : options(std::move(o)),
        started_with(std::move(c)),
        registry(started_with.limits),
        latest(started_with) {}

  Result<void> open_devices();
  Result<ApplyReport> reload_held();

  const EngineOptions options;
  const Config started_with;     // what a restart would have to change
  std::vector<int> own_sockets;  // that listen, but not for NBD; as they were made at first
  Registry registry;

  std::atomic<bool> advertise{true};
  std::mutex lifecycle;  // protects what follows; short
  std::string default_device;
  bool shut_down = false;

  std::mutex reloading;  // held by the one reload that runs; taken before lifecycle
  Config latest;         // the last one that was applied; under reloading

  std::unique_ptr<dump::Service> dumps;
  std::unique_ptr<DumpExports> dump_exports;

  // Last, and so first to go: they call what stands above.
  std::unique_ptr<iscsi::Server> iscsi;  // verbs ask it
  std::unique_ptr<control::Server> control;
  std::unique_ptr<HangupWatch> hangup;
  std::unique_ptr<WatchdogPinger> watchdog;
};

Engine::Engine(std::unique_ptr<State> state) : state_(std::move(state)) {}

Result<std::unique_ptr<Engine>> Engine::create(EngineOptions options) {
  Config config;
  if (!options.config.empty()) {
    auto loaded = load_config(options.config);
    if (!loaded) return loaded.error();
    config = std::move(*loaded);
  }
  auto whole = effective(std::move(config), options);
  if (!whole) return whole.error();
  auto state = std::make_unique<State>(std::move(options), std::move(*whole));
  state->advertise = state->started_with.advertise;
  state->default_device = state->started_with.default_device;
  if (auto opened = state->open_devices(); !opened) return opened.error();
  std::unique_ptr<Engine> engine(new Engine(std::move(state)));
  const std::vector<int> given = listening_sockets();
  if (auto dumps = engine->open_dumps(); !dumps) return dumps.error();
  if (auto controlled = engine->open_control(); !controlled) return controlled.error();
  if (auto portals = engine->open_iscsi(); !portals) return portals.error();
  for (const int fd : listening_sockets())
    if (std::find(given.begin(), given.end(), fd) == given.end())
      engine->state_->own_sockets.push_back(fd);
  return engine;
}

Result<void> Engine::open_dumps() {
  State& s = *state_;
  if (!s.started_with.dump.enabled()) return {};
  std::unique_ptr<dump::BackEnd> device;
  if (const std::string& name = s.started_with.dump.device; !name.empty()) {
    auto made = dump::make_device_back_end(s.registry, name);
    if (!made) return made.error();
    device = std::move(*made);
  }
  auto opened =
      dump::Service::open(s.started_with.dump, dump_notify(s.registry), std::move(device));
  if (!opened) return opened.error();
  s.dumps = std::move(*opened);
  s.dump_exports = std::make_unique<DumpExports>(*s.dumps);
  return {};
}

Result<DeviceHandle> Engine::open_dump(std::string_view dump) {
  if (!state_->dump_exports)
    return Error{Errc::not_found,
                 fmt::format("there is no dump {}: this server takes none in", quoted(dump))};
  return state_->dump_exports->open(dump);
}

std::vector<Engine::DumpExport> Engine::dump_exports() const {
  std::vector<DumpExport> all;
  if (state_->dump_exports)
    for (DumpExports::Export& e : state_->dump_exports->list())
      all.push_back({std::move(e.name), std::move(e.description)});
  return all;
}

Result<void> Engine::open_control() {
  State& s = *state_;
  if (s.started_with.control.empty()) return {};
  control::Options options;
  options.socket_path = s.started_with.control;
  options.default_device = [this] { return default_device(); };
  if (!s.options.config.empty()) options.reload = [this] { return reload(); };
  options.iscsi = [&s](std::string_view verb, const control::Params& params) {
    return iscsi_verb(s.iscsi.get(), verb, params);
  };
  options.parse_config = [](std::string_view text, const std::string& name) {
    return parse_devices({name, std::string(text)});
  };
  if (s.dumps)
    options.more_verbs = std::make_shared<std::vector<control::Verb>>(dump_verbs(*s.dumps));
  s.control = std::make_unique<control::Server>(s.registry, std::move(options));
  return s.control->listen();
}

Result<void> Engine::open_iscsi() {
  State& s = *state_;
  // Also where it is off: a reload may switch it on.
  s.iscsi = std::make_unique<iscsi::Server>(s.registry, s.started_with.iscsi);
  return s.iscsi->listen();
}

Result<void> Engine::State::open_devices() {
  auto devices = merged(started_with, options);
  if (!devices) return devices.error();
  if (options.config.empty() && started_with.state_dir.empty()) {
    auto applied = registry.apply(*devices);
    return applied ? Result<void>() : applied.error();
  }
  std::unique_ptr<StateStore> store;
  if (!started_with.state_dir.empty()) {
    auto opened = StateStore::open(started_with.state_dir);
    if (!opened) return opened.error();
    store = std::move(*opened);
  }
  if (auto started = registry.start(std::move(store), *devices); !started) return started.error();
  // A service goes on with the devices that it can have. One given by hand was wanted now, and the
  // caller says why it is not there.
  Result<void> wanted;
  for (const auto& device : registry.list()) {
    std::string why = device->info().failure;
    if (why.empty()) continue;
    const bool by_hand =
        std::any_of(options.devices.begin(), options.devices.end(),
                    [&](const DeviceSpec& spec) { return spec.name == device->name(); });
    if (by_hand && wanted)
      wanted = Error{Errc::io, std::move(why)};
    else
      log_error(fmt::format("not served: {}", why));
  }
  return wanted;
}

Engine::~Engine() {
  begin_shut_down();
  state_->hangup.reset();
  state_->control.reset();
  state_->iscsi.reset();
  state_->dump_exports.reset();
  state_->dumps.reset();
  state_->watchdog.reset();
}

Result<void> Engine::start() {
  State& s = *state_;
  // Before anything else of ours may listen.
  if (s.control) s.control->set_endpoints(current_endpoints(s.started_with, s.own_sockets));
  if (s.iscsi)
    if (auto started = s.iscsi->start(); !started) return started;
  if (s.dumps)
    if (auto started = s.dumps->start(); !started) return started;
  if (s.control)
    if (auto started = s.control->start(); !started) return started;
  if (!s.options.config.empty()) {
    auto watch = HangupWatch::start([this] {
      // Logged there; nobody waits for the answer.
      [[maybe_unused]] const auto report = reload();
    });
    if (!watch) return watch.error();
    s.hangup = std::move(*watch);
  }
  if (const Duration period = readiness::watchdog(); period > Duration{})
    s.watchdog = std::make_unique<WatchdogPinger>(period);
  readiness::ready(serving(s.registry));
  return {};
}

Result<ApplyReport> Engine::reload() {
  State& s = *state_;
  if (s.options.config.empty())
    return Error{Errc::not_supported, "reload: the server was started without a configuration"};
  const std::lock_guard one_at_a_time(s.reloading);
  {
    const std::lock_guard lock(s.lifecycle);
    if (s.shut_down) return Error{Errc::shutdown, "reload: the server is stopping"};
  }
  readiness::reloading();
  auto report = s.reload_held();
  if (report) {
    log_info(summary(report.value()));
    for (const std::string& note : report->notes)
      log_warning("reload: " + note);
    readiness::ready(fmt::format("{}; {}", serving(s.registry), summary(report.value())));
    return report;
  }
  Error error = report.error();
  log_lines(LogLevel::error, "reload: the old configuration stays: ", error.message);
  readiness::ready(fmt::format("{}; reload failed: {}", serving(s.registry), error.message));
  error.message = "the old configuration stays: " + error.message;
  return error;
}

Result<ApplyReport> Engine::State::reload_held() {
  auto loaded = load_config(options.config);
  if (!loaded) return loaded.error();
  auto with_options = effective(std::move(*loaded), options);
  if (!with_options) return with_options.error();
  Config config = std::move(*with_options);
  if (auto whole = check_not_truncated(latest, config); !whole) return whole.error();
  auto devices = merged(config, options);
  if (!devices) return devices.error();
  // Portals first: one that cannot be bound leaves everything as it was.
  std::vector<std::string> notes;
  {
    auto reloaded = iscsi->reload(config.iscsi);
    if (!reloaded) return reloaded.error();
    notes = std::move(*reloaded);
  }
  auto report = registry.reconfigure(*devices);
  if (!report) return report;
  report->notes.insert(report->notes.end(), notes.begin(), notes.end());
  advertise = config.advertise;
  {
    const std::lock_guard lock(lifecycle);
    default_device = config.default_device;
  }
  for (const std::string& name : restart_settings(started_with, config))
    report->notes.push_back(fmt::format("{} changed: it needs a restart to take effect", name));
  latest = std::move(config);
  return report;
}

void Engine::begin_shut_down() {
  {
    const std::lock_guard lock(state_->lifecycle);
    if (std::exchange(state_->shut_down, true)) return;
  }
  readiness::stopping();
  // Initiators hear that the target goes before their commands fail: they try another path.
  if (state_->iscsi) state_->iscsi->begin_stop();
  // Before the registry: what came is written, also where a device of ours holds the dumps.
  if (state_->dumps) state_->dumps->stop();
  if (state_->dump_exports) state_->dump_exports->shut_down();
  state_->registry.shut_down();
}

Registry& Engine::registry() noexcept {
  return state_->registry;
}

std::string Engine::default_device() const {
  {
    const std::lock_guard lock(state_->lifecycle);
    if (!state_->default_device.empty()) return state_->default_device;
  }
  const auto devices = state_->registry.list();
  return devices.size() == 1 ? devices.front()->name() : std::string();
}

bool Engine::advertise() const noexcept {
  return state_->advertise.load(std::memory_order_relaxed);
}

}  // namespace blockloom
