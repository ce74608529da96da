#include "plugins/nbdkit/epochs.hpp"

#include <fmt/format.h>

namespace blockloom::nbd {

Result<void> EpochGate::raise(Registry& registry, Device& device, std::uint64_t epoch,
                              TimePoint deadline) {
  const std::unique_lock one_at_a_time(raising_, deadline);
  if (!one_at_a_time)
    return Error{Errc::busy,
                 fmt::format("device '{}': epoch {} waits for another that is being opened: try "
                             "again",
                             device.name(), epoch)};
  const std::uint64_t floor = floor_.load();
  if (epoch < floor)
    return Error{Errc::permission, fmt::format("device '{}': epoch {} is over: epoch {} was opened",
                                               device.name(), epoch, floor)};
  if (epoch == device.epoch()) return {};  // one more connection of it

  // First the bar, then the wait, then the record, and only then the proof (I7). The bar stays
  // even if the rest fails: whoever fences will come back, and has not been promised anything.
  floor_.store(epoch, std::memory_order_seq_cst);
  gate_.close();
  const bool idle = gate_.wait_idle(deadline);
  const std::uint64_t left = idle ? 0 : gate_.inside();
  gate_.open();
  if (!idle)
    return Error{
        Errc::busy,
        fmt::format("device '{}': {} request{} of older epochs {} still under way: try "
                    "epoch {} again",
                    device.name(), left, left == 1 ? "" : "s", left == 1 ? "is" : "are", epoch)};
  return registry.store_epoch(device, epoch);
}

std::shared_ptr<EpochGate> EpochGates::of(const Device& device) {
  const std::lock_guard lock(mutex_);
  // Those that nobody has open any more; what is stored, their devices know.
  std::erase_if(by_minor_, [](const auto& entry) { return entry.second.use_count() == 1; });
  auto& gate = by_minor_[device.minor()];
  if (!gate) gate = std::make_shared<EpochGate>(device.epoch());
  return gate;
}

}  // namespace blockloom::nbd
