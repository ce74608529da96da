#pragma once

#include <vector>

#include "server/control/server.hpp"
#include "server/daemon/config.hpp"

namespace blockloom {

/// Where this process listens for streams at this moment, whoever opened the sockets; the control
/// socket is left out by its path. With none (before nbdkit binds its own): what the
/// configuration names.
std::vector<control::Endpoint> current_endpoints(const Config& config);

}  // namespace blockloom
