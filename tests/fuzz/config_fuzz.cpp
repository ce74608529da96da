// blockloom.toml, its devices alone, listeners and durations.
#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>

#include "server/daemon/config.hpp"
#include "server/daemon/listener.hpp"
#include "tests/fuzz/demand.hpp"

using namespace blockloom;

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  const std::string text(reinterpret_cast<const char*>(data), size);
  if (const auto config = parse_config({{"blockloom.toml", text}})) {
    demand(restart_settings(config.value(), config.value()).empty());
    // What was accepted is not public without a word.
    for (const Listener& listener : config.value().listen)
      demand(static_cast<bool>(check_public(listener, config.value())));
  } else {
    demand(config.error().message.starts_with("blockloom.toml:"));  // and the line and column
  }
  if (const auto devices = parse_devices({"devices.toml", text}); !devices)
    demand(devices.error().message.starts_with("devices.toml:"));
  if (const auto listener = parse_listener(text)) {
    const auto again = parse_listener(to_string(listener.value()));
    demand(static_cast<bool>(again) && to_string(again.value()) == to_string(listener.value()));
    demand(!addresses(listener.value()).empty());
  }
  if (const auto duration = parse_duration(text)) demand(duration.value() >= Duration(0));
  return 0;
}
