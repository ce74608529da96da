#pragma once

#include "server/base/error.hpp"
#include "server/device/device.hpp"
#include "server/device/request.hpp"

namespace blockloom::nbd {

/// Carries a request to a device from one of nbdkit's workers, and returns when it has ended,
/// with its status. A request that ends inside submit() costs no lock and no allocation; for any
/// other the worker waits, through suspensions of the device too, and reads a network leg
/// meanwhile. The caller fills op, flags, offset, length and data or extents. Any thread, many at
/// once.
Errc run(Device& device, Request& request) noexcept;

}  // namespace blockloom::nbd
