#pragma once

#include "server/base/error.hpp"
#include "server/dump/address.hpp"
#include "server/dump/store.hpp"

namespace blockloom::dump {

/// Sends a small made-up dump to this machine's own netdump port, as a crashed machine would, and
/// waits until it is in the store, complete. Errc::timed_out: it is not.
Result<Record> run_self_test(Store& store, const BindPoint& port, Duration timeout);

}  // namespace blockloom::dump
