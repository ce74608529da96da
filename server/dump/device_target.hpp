#pragma once

#include <memory>

#include "server/dump/device_store.hpp"
#include "server/dump/target.hpp"

namespace blockloom::dump {

/// A dump in runs of blocks of a store on a device. Writes are copied into buffers of the store's
/// IoClient and have a deadline: one that is late ends as Errc::timed_out, and its buffer is its
/// own until the leg lets it go. Room is taken ahead of the writes. `resume`: what is there stays.
/// The store outlives it.
std::unique_ptr<DumpTarget> make_device_target(DeviceStore& store, const DumpId& id, bool resume);

}  // namespace blockloom::dump
