// The saved state: any bytes; and any text behind a first line that is right.
#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>

#include <fmt/format.h>

#include "server/device/state_store.hpp"
#include "tests/fuzz/demand.hpp"

using namespace blockloom;

namespace {

/// Castagnoli's, bit by bit: another hand than the one that is tested.
std::uint32_t crc32c(std::string_view bytes) {
  std::uint32_t crc = ~0U;
  for (const char byte : bytes) {
    crc ^= static_cast<std::uint8_t>(byte);
    for (int bit = 0; bit < 8; ++bit)
      crc = (crc >> 1) ^ ((crc & 1) != 0 ? 0x82f63b78U : 0U);
  }
  return ~crc;
}

void check(std::string_view bytes) {
  const auto read = decode_state(bytes);
  if (!read) {
    demand(read.code() == Errc::corrupt && !read.error().message.empty());
    return;
  }
  const auto& [generation, state] = read.value();
  // Bytes that are not UTF-8 are replaced when written; after that it is stable.
  const std::string once = encode_state(state, generation);
  const auto again = decode_state(once);
  demand(static_cast<bool>(again) && again.value().first == generation);
  demand(encode_state(again.value().second, generation) == once);
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  const std::string_view bytes(reinterpret_cast<const char*>(data), size);
  check(bytes);
  check(fmt::format("blockloom-state 1 7 {} {:08x}\n{}", bytes.size(), crc32c(bytes), bytes));
  return 0;
}
