#pragma once

#include <string_view>

#include "proto/control/value.hpp"
#include "server/base/error.hpp"
#include "server/control/params.hpp"
#include "server/iscsi/server.hpp"

namespace blockloom {

/// Answers "sessions", "targets", "luns", "reservations" and "kick" of the control socket. The
/// server may be null: there is no target.
Result<rpc::Value> iscsi_verb(iscsi::Server* server, std::string_view verb,
                              const control::Params& params);

}  // namespace blockloom
