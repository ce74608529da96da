#pragma once

#include <memory>

#include "server/device/device.hpp"
#include "server/leg/leg.hpp"

namespace blockloom::dump {

/// A claimed device as a leg for dumps. Requests go straight to whatever its live table is then,
/// also while the device is suspended: a dump cannot wait. Only where a target keeps books that
/// must not change under a suspension (a mirror) they go through the device, and wait with it.
/// The device stays open as long as requests come.
std::shared_ptr<Leg> make_bypass_leg(std::shared_ptr<Device> device);

}  // namespace blockloom::dump
