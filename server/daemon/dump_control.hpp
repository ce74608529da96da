#pragma once

#include <memory>
#include <vector>

#include "server/control/verb.hpp"
#include "server/dump/service.hpp"

namespace blockloom {

/// The verbs of crash dumps for the control socket, as docs/control-api-dumps.md has them. The
/// service outlives them.
std::vector<control::Verb> dump_verbs(dump::Service& service);

/// Publishes what happens to dumps with the devices' events.
dump::Notify dump_notify(Registry& registry);

}  // namespace blockloom
