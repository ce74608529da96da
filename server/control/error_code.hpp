#pragma once

#include "proto/control/message.hpp"
#include "server/base/error.hpp"

namespace blockloom::control {

/// The border from the engine's errors to JSON-RPC codes, one each from -32001 down. The numbers
/// are part of the interface: they stay, and new errors get new ones.
int to_rpc_code(Errc code) noexcept;

/// Errc::io for a code that is none of ours.
Errc from_rpc_code(int code) noexcept;

/// An error object with data {"errc": NAME}.
rpc::Failure to_failure(const Error& error);

}  // namespace blockloom::control
