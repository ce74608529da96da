#include "server/leg/nbd_epoch.hpp"

#include <fmt/format.h>

#include "proto/text/number.hpp"

namespace blockloom {
namespace {

constexpr std::string_view separator = ";epoch=";
constexpr std::string_view marker = "blockloom-epoch: ";

}  // namespace

std::string epoch_export(std::string_view name, std::uint64_t epoch) {
  return fmt::format("{}{}{}", name, separator, epoch);
}

std::string epoch_query(std::string_view name) {
  return fmt::format("{}{}?", name, separator);
}

Result<EpochExport> parse_epoch_export(std::string_view name) {
  const auto at = name.rfind(separator);
  if (at == name.npos) return EpochExport{name, EpochExport::Kind::none, 0};
  const std::string_view value = name.substr(at + separator.size());
  const std::string_view device = name.substr(0, at);
  if (value == "?") return EpochExport{device, EpochExport::Kind::query, 0};
  std::uint64_t epoch = 0;
  if (!parse_whole(value, epoch) || epoch == 0)
    return Error{Errc::invalid, fmt::format("export {}: expected a number from 1 on after '{}'",
                                            quoted(name), separator)};
  return EpochExport{device, EpochExport::Kind::epoch, epoch};
}

std::string epoch_description(std::uint64_t epoch, std::string_view description) {
  return fmt::format("{}{}{}{}", marker, epoch, description.empty() ? "" : " ", description);
}

std::optional<std::uint64_t> epoch_in_description(std::string_view description) {
  if (!description.starts_with(marker)) return std::nullopt;
  description.remove_prefix(marker.size());
  std::uint64_t epoch = 0;
  if (!parse_whole(description.substr(0, description.find(' ')), epoch)) return std::nullopt;
  return epoch;
}

}  // namespace blockloom
