#pragma once

#include <memory>

#include "server/device/registry.hpp"
#include "server/dump/back_end.hpp"
#include "server/leg/leg.hpp"

namespace blockloom::dump {

/// A device of ours, carved into dumps by a catalogue on it. Claims the device: ordinary clients
/// are refused while this lives. Starts no thread, and reads nothing before open().
Result<std::unique_ptr<BackEnd>> make_device_back_end(Registry& registry, std::string_view device);

/// The same over any leg.
Result<std::unique_ptr<BackEnd>> make_device_back_end(std::shared_ptr<Leg> leg, Duration patience);

}  // namespace blockloom::dump
