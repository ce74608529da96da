#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>

#include "server/base/error.hpp"

namespace blockloom {

// Epochs in the names of NBD exports: how a Blockloom server fences for its clients (the mirror
// protocol's table of fences; docs/blockloom-targets.7.scd). Both ends, the plugin and the NBD leg,
// write and read them here.
//
//   NAME;epoch=17   Opening it bars every request of older connections, waits for those in flight,
//                   stores the epoch, and only then finishes the handshake. A lower epoch than the
//                   stored one is refused; the same one is one more connection of it.
//   NAME;epoch=?    Read-only, and changes nothing: tells the epoch that is stored.
//
// That the server understood is said by the export's description, for many a server opens any name.

struct EpochExport {
  enum class Kind : std::uint8_t { none, query, epoch };
  std::string_view device;  ///< the name before the ;
  Kind kind = Kind::none;
  std::uint64_t epoch = 0;
};

std::string epoch_export(std::string_view name, std::uint64_t epoch);
std::string epoch_query(std::string_view name);

/// Cuts an export's name. Errc::invalid: what stands after ";epoch=" is no number from 1 on.
Result<EpochExport> parse_epoch_export(std::string_view name);

/// "blockloom-epoch: 17", then the device's own description after a space, if it has one.
std::string epoch_description(std::uint64_t epoch, std::string_view description);

/// The epoch that a description tells; 0: none was stored yet. Empty: it is no such description.
std::optional<std::uint64_t> epoch_in_description(std::string_view description);

}  // namespace blockloom
