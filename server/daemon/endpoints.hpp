#pragma once

#include <span>
#include <vector>

#include "server/control/server.hpp"
#include "server/daemon/config.hpp"

namespace blockloom {

/// The sockets on which this process listens for streams at this moment, whoever opened them.
std::vector<int> listening_sockets();

/// Where NBD clients connect: all listening sockets but those of `others` (control, iSCSI). With
/// none (before nbdkit binds its own): what the configuration names.
std::vector<control::Endpoint> current_endpoints(const Config& config, std::span<const int> others);

}  // namespace blockloom
