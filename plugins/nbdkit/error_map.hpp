#pragma once

#include "server/base/error.hpp"
#include "server/leg/io.hpp"

namespace blockloom::nbd {

/// The errno that tells an NBD client best how its request ended. NBD carries only EPERM, EIO,
/// ENOMEM, EINVAL, ENOSPC, ENOTSUP and ESHUTDOWN, and nbdkit sends everything else as EINVAL,
/// which a client takes for its own mistake; so what the server could not do becomes EIO.
int to_nbd_errno(Errc code, Op op) noexcept;

}  // namespace blockloom::nbd
