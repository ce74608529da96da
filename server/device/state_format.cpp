#include <algorithm>

#include <fmt/format.h>
#include <isa-l/crc.h>
#include <nlohmann/json.hpp>

#include "proto/text/number.hpp"
#include "server/device/state_store.hpp"

namespace blockloom {
namespace {

using Json = nlohmann::ordered_json;

constexpr std::string_view magic = "blockloom-state 1 ";

std::uint32_t crc32c(std::string_view bytes) {
  // ISA-L takes an int length and a pointer to non-const, and leaves the inversions to us.
  std::uint32_t crc = ~0U;
  while (!bytes.empty()) {
    const std::size_t n = std::min<std::size_t>(bytes.size(), 1U << 30);
    crc = crc32_iscsi(reinterpret_cast<unsigned char*>(const_cast<char*>(bytes.data())),
                      static_cast<int>(n), crc);
    bytes.remove_prefix(n);
  }
  return ~crc;
}

Error corrupt(std::string_view why) {
  return {Errc::corrupt, fmt::format("the saved state is damaged: {}", why)};
}

bool take_number(std::string_view& text, char end, int base, std::uint64_t& value) {
  const auto stop = text.find(end);
  if (stop == std::string_view::npos) return false;
  if (!parse_whole(text.substr(0, stop), value, base)) return false;
  text.remove_prefix(stop + 1);
  return true;
}

std::string text_of(const Json& object, const char* key) {
  const auto field = object.find(key);
  return field != object.end() && field->is_string() ? field->get<std::string>() : std::string();
}

std::uint64_t number_of(const Json& object, const char* key) {
  const auto field = object.find(key);
  return field != object.end() && field->is_number_unsigned() ? field->get<std::uint64_t>() : 0;
}

bool flag_of(const Json& object, const char* key) {
  const auto field = object.find(key);
  return field != object.end() && field->is_boolean() && field->get<bool>();
}

}  // namespace

std::string encode_state(const SavedState& state, std::uint64_t generation) {
  Json body;
  body["devices"] = Json::array();
  for (const SavedDevice& d : state.devices)
    body["devices"].push_back({{"name", d.name},
                               {"uuid", d.uuid},
                               {"description", d.description},
                               {"table", d.table},
                               {"read_only", d.read_only},
                               {"inactive", d.inactive},
                               {"inactive_read_only", d.inactive_read_only},
                               {"epoch", d.epoch}});
  body["configured"] = Json::array();
  for (const SavedConfigured& c : state.configured)
    body["configured"].push_back(
        {{"name", c.name}, {"signature", c.signature}, {"device", c.device}});
  // Text from outside may hold bytes that are no UTF-8; they are replaced, not thrown at.
  std::string text = body.dump(1, ' ', false, Json::error_handler_t::replace) + "\n";
  return fmt::format("{}{} {} {:08x}\n", magic, generation, text.size(), crc32c(text)) + text;
}

Result<std::pair<std::uint64_t, SavedState>> decode_state(std::string_view bytes) {
  if (!bytes.starts_with(magic)) return corrupt("its first line is not a state's");
  bytes.remove_prefix(magic.size());
  std::uint64_t generation = 0, length = 0, crc = 0;
  if (!take_number(bytes, ' ', 10, generation) || !take_number(bytes, ' ', 10, length) ||
      !take_number(bytes, '\n', 16, crc))
    return corrupt("its first line is not a state's");
  if (length != bytes.size())
    return corrupt(fmt::format("{} bytes stand where {} should", bytes.size(), length));
  if (crc != crc32c(bytes)) return corrupt("its checksum does not match");

  const Json body = Json::parse(bytes, nullptr, false);
  SavedState state;
  if (!body.is_object() || !body.contains("devices") || !body["devices"].is_array())
    return corrupt("it holds no list of devices");
  for (const Json& d : body["devices"]) {
    if (!d.is_object() || text_of(d, "name").empty()) return corrupt("a device has no name");
    state.devices.push_back({text_of(d, "name"), text_of(d, "uuid"), text_of(d, "description"),
                             text_of(d, "table"), text_of(d, "inactive"), flag_of(d, "read_only"),
                             flag_of(d, "inactive_read_only"), number_of(d, "epoch")});
  }
  if (const auto configured = body.find("configured");
      configured != body.end() && configured->is_array())
    for (const Json& c : *configured)
      if (c.is_object())
        state.configured.push_back(
            {text_of(c, "name"), text_of(c, "signature"), text_of(c, "device")});
  return std::pair{generation, std::move(state)};
}

}  // namespace blockloom
