#pragma once

#include <string>

#include "server/control/server.hpp"

namespace blockloom::control {

/// The lines with which a client attaches one device over one endpoint, ready for a shell or for
/// /etc/nbdtab. A line is empty where that client cannot do it.
struct Attach {
  std::string uri, nbd_client, nbdinfo, qemu, nbdtab;
};

Attach attach_lines(const Endpoint& endpoint, const std::string& name);

}  // namespace blockloom::control
