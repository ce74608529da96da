#pragma once

#include <string>
#include <vector>

#include <sys/types.h>

#include "server/base/error.hpp"
#include "server/base/unique_fd.hpp"
#include "server/daemon/config.hpp"
#include "server/daemon/listener.hpp"

namespace blockloom {

/// A socket that listens, and where.
struct ListeningSocket {
  UniqueFd fd;
  Listener listener;
  bool inherited = false;
};

/// Whose the file of a Unix socket becomes; -1: unchanged.
struct Owner {
  uid_t user = static_cast<uid_t>(-1);
  gid_t group = static_cast<gid_t>(-1);
};

/// Takes the sockets that systemd (or whoever) handed over by LISTEN_FDS and LISTEN_PID, and
/// takes the variables out of the environment. Errc::invalid for one that does not listen on a
/// stream, or that is public and may not be.
Result<std::vector<ListeningSocket>> inherit_sockets(const Config& config);

/// Opens what the configuration names and nobody handed over; with neither,
/// tcp:127.0.0.1:10809. A Unix socket that nobody listens on any more is replaced. All or
/// nothing.
Result<void> open_sockets(const Config& config, const Owner& owner,
                          std::vector<ListeningSocket>& sockets);

/// Puts the sockets at descriptor 3 and up, open over exec, and sets LISTEN_FDS and LISTEN_PID
/// for this process.
Result<void> hand_over(std::vector<ListeningSocket> sockets);

}  // namespace blockloom
