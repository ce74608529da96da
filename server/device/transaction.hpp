#pragma once

#include <memory>
#include <mutex>
#include <string>
#include <vector>

#include "server/device/load_scope.hpp"
#include "server/device/registry.hpp"

namespace blockloom {

/// A table's text with one blank between words and without comments, to compare; the text as it
/// is when it does not parse.
std::string normal_form(const std::string& text);

/// One swap of several devices as one. Each step is undone by the destructor, in reverse, unless
/// the swap was committed.
class Registry::Transaction {
 public:
  Transaction(Registry& registry, const std::vector<DeviceSpec>& specs)
      : registry_(registry), specs_(specs) {}
  ~Transaction();
  Transaction(const Transaction&) = delete;
  Transaction& operator=(const Transaction&) = delete;

  /// Checks names, finds or makes the devices, and sets aside those that stay as they are.
  Result<void> plan();
  /// Builds every new table, bottom-up, without touching a device.
  Result<void> build();
  /// Registers the new devices, keeps those that waited for their last close, suspends all
  /// top-down, starts the new tables, swaps, resumes bottom-up.
  Result<void> commit(const SuspendOptions& options);

  ApplyReport report() const { return report_; }

 private:
  struct Part {
    const DeviceSpec* spec = nullptr;
    std::shared_ptr<Device> device;
    bool created = false;
    std::shared_ptr<Table> table;     // to come
    std::shared_ptr<Table> previous;  // what stood in the inactive slot
    bool placed = false;              // table stands in the inactive slot
    bool suspended = false;           // by this
    std::unique_lock<std::mutex> control;
    std::unique_ptr<LoadScope> scope;
  };

  static Error placed(const DeviceSpec& spec, const Error& error);
  Result<void> plan_one(const DeviceSpec& spec);
  Result<void> sort_bottom_up();
  Result<void> register_all();
  Result<void> suspend_all(const SuspendOptions& options);
  Result<void> start_new_tables();
  void swap_all();
  std::vector<Part*> top_down();
  void back_out() noexcept;

  Registry& registry_;
  const std::vector<DeviceSpec>& specs_;
  Change change_;
  std::vector<Part> parts_;                     // bottom-up, after sort_bottom_up
  std::vector<std::shared_ptr<Device>> named_;  // those that were there, changed or not
  std::vector<std::shared_ptr<Device>> kept_;   // of these, what waited for its removal
  ApplyReport report_;
  bool committed_ = false;
};

}  // namespace blockloom
