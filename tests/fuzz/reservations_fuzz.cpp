// The text that keeps persistent reservations over a restart.
#include <cstddef>
#include <cstdint>
#include <string_view>

#include "server/iscsi/reservations.hpp"
#include "tests/fuzz/demand.hpp"

using namespace blockloom;

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  const auto loaded = Reservations::load({reinterpret_cast<const char*>(data), size});
  if (!loaded) {
    demand(loaded.code() == Errc::corrupt && !loaded.error().message.empty());
    return 0;
  }
  // What was taken is written the same way again.
  const auto again = Reservations::load(loaded.value().save());
  demand(static_cast<bool>(again) && again.value() == loaded.value());
  return 0;
}
