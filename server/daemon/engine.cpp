#include "server/daemon/engine.hpp"

#include <atomic>
#include <mutex>
#include <utility>

#include <fmt/format.h>

#include "server/base/log.hpp"
#include "server/daemon/hangup.hpp"
#include "server/daemon/readiness.hpp"

namespace blockloom {

struct Engine::State {
  explicit State(EngineOptions o) : options(std::move(o)), registry(std::make_unique<Registry>()) {}

  const EngineOptions options;
  std::unique_ptr<Registry> registry;
  std::atomic<bool> advertise{true};

  std::mutex lifecycle;  // protects what follows
  std::string default_device;
  bool shut_down = false;

  // Last: they call into what stands above.
  std::unique_ptr<WatchdogPinger> watchdog;
};

Engine::Engine(std::unique_ptr<State> state) : state_(std::move(state)) {}

Result<std::unique_ptr<Engine>> Engine::create(EngineOptions options) {
  if (!options.config.empty())
    return Error{Errc::not_supported,
                 fmt::format("config '{}': configuration files are not read yet", options.config)};
  auto state = std::make_unique<State>(std::move(options));
  if (auto applied = state->registry->apply(state->options.devices); !applied)
    return applied.error();
  state->default_device = state->options.default_device;
  if (state->default_device.empty() && state->options.devices.size() == 1)
    state->default_device = state->options.devices.front().name;
  return std::unique_ptr<Engine>(new Engine(std::move(state)));
}

Engine::~Engine() {
  begin_shut_down();
  state_->watchdog.reset();
}

Result<void> Engine::start() {
  if (const Duration period = readiness::watchdog(); period > Duration{})
    state_->watchdog = std::make_unique<WatchdogPinger>(period);
  readiness::ready(fmt::format("serving {} devices", state_->registry->list().size()));
  return {};
}

Result<ApplyReport> Engine::reload() {
  return Error{Errc::not_supported, "reload: no configuration file was given"};
}

void Engine::begin_shut_down() {
  {
    const std::lock_guard lock(state_->lifecycle);
    if (std::exchange(state_->shut_down, true)) return;
  }
  readiness::stopping();
  state_->registry->shut_down();
}

Registry& Engine::registry() noexcept {
  return *state_->registry;
}

std::string Engine::default_device() const {
  const std::lock_guard lock(state_->lifecycle);
  return state_->default_device;
}

bool Engine::advertise() const noexcept {
  return state_->advertise.load(std::memory_order_relaxed);
}

}  // namespace blockloom
