#include "plugins/nbdkit/epochs.hpp"

#include <fmt/format.h>

#include "server/leg/late_writes.hpp"
#include "server/leg/storage_name.hpp"
#include "server/leg/uri.hpp"

namespace blockloom::nbd {
namespace {

constexpr unsigned deepest_stack = 64;  // of devices on devices; loading refuses loops

/// A request may have ended for its client and be under way below, at the server of a leg whose
/// link was lost (end_unknown): then nothing can be promised of it.
Result<void> nothing_is_late(const Registry& registry, const Device& device, unsigned depth) {
  if (depth == deepest_stack) return {};
  for (const LegInfo& leg : device.leg_infos()) {
    std::string_view uri = leg.uri, rules, inner;
    while (split_fault_uri(uri, rules, inner))
      uri = inner;
    if (const auto late = LateWrites::get().count(storage_name(uri)); late != 0)
      return Error{
          Errc::busy,
          fmt::format("device '{}': no epoch can be promised: {} write{} to leg '{}' ended without "
                      "an answer, and may still land. Make sure that its server has none left "
                      "(start that anew), then start this server anew",
                      device.name(), late, late == 1 ? "" : "s", public_uri(uri))};
    if (leg.device.empty()) continue;
    auto below = registry.find(leg.device);
    if (!below) continue;
    if (auto r = nothing_is_late(registry, **below, depth + 1); !r) return r;
  }
  return {};
}

}  // namespace

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
  const auto settled = idle ? nothing_is_late(registry, device, 0) : Result<void>();
  gate_.open();
  if (!settled) return settled;
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
