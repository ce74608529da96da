#pragma once

#include <map>
#include <memory>
#include <mutex>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "server/base/error.hpp"
#include "server/base/timer_queue.hpp"
#include "server/device/device.hpp"
#include "server/device/events.hpp"
#include "server/device/stack_graph.hpp"
#include "server/leg/leg.hpp"
#include "server/leg/memory_leg.hpp"

namespace blockloom {

class StateStore;
struct SavedState;
struct Change;

/// A device held open by a frontend: it cannot be removed (but by force) while this lives.
/// Movable; the destructor closes. Ends before the registry does.
class DeviceHandle {
 public:
  DeviceHandle() = default;
  DeviceHandle(DeviceHandle&& other) noexcept;
  DeviceHandle& operator=(DeviceHandle&& other) noexcept;
  ~DeviceHandle();

  explicit operator bool() const noexcept { return device_ != nullptr; }
  Device& operator*() const noexcept { return *device_; }
  Device* operator->() const noexcept { return device_.get(); }

 private:
  friend class Registry;
  DeviceHandle(class Registry* registry, std::shared_ptr<Device> device, bool claimed = false);
  void close() noexcept;
  Registry* registry_ = nullptr;
  std::shared_ptr<Device> device_;
  bool claimed_ = false;
};

/// A device as a configuration describes it.
struct DeviceSpec {
  std::string name;
  std::string uuid;         ///< empty: none, or keep
  std::string description;  ///< empty: none, or keep
  std::string table;        ///< the text
  bool read_only = false;
  std::string origin =
      {};  ///< where the table is written, "FILE:LINE:COLUMN"; errors begin with it
};

/// What apply() or reconfigure() did.
struct ApplyReport {
  std::vector<std::string> created, swapped, unchanged;
  std::vector<std::string> removed;  ///< reconfigure() only
  std::vector<std::string> notes;    ///< sentences for the user: what waits for a restart, and why
  Duration pause{};                  ///< from the first gate's closing to the last one's opening
};

struct RemoveOptions {
  bool deferred = false;
  bool force = false;
};

/// All devices, by name. Every change goes through here, is announced as an event, and is saved
/// (when a state store is set) before the call returns. Any thread.
class Registry {
 public:
  explicit Registry(DeviceLimits limits = {});
  ~Registry();  ///< shuts down
  Registry(const Registry&) = delete;
  Registry& operator=(const Registry&) = delete;

  // dmsetup's verbs. Errors name the device. A name has 1 to 127 characters, no '/', no control
  // character; a uuid up to 128.
  Result<void> create(const DeviceSpec& spec);  ///< with a table: loaded and resumed; else empty
  Result<void> load(std::string_view name, std::string_view table, bool read_only);
  Result<void> clear(std::string_view name);
  Result<void> suspend(std::string_view name, const SuspendOptions& options);
  Result<PauseReport> resume(std::string_view name, const SuspendOptions& options = {});
  Result<void> remove(std::string_view name, const RemoveOptions& options);
  Result<void> rename(std::string_view name, std::string_view new_name);
  Result<void> set_uuid(std::string_view name, std::string_view uuid);
  /// Raises a device's epoch; durable when it returns ok. Without a store it is refused: an epoch
  /// that a restart forgets fences nobody. Lower than the present one: Errc::invalid. One caller a
  /// device at a time.
  Result<void> store_epoch(Device& device, std::uint64_t epoch);
  Result<std::string> message(std::string_view name, Sectors sector,
                              std::span<const std::string> words);

  /// Swaps several devices as one, all or nothing: loads every table bottom-up, suspends all
  /// top-down, swaps, resumes bottom-up. A device that does not exist is created; one whose table
  /// is the same is left alone; one that is not named is not touched.
  Result<ApplyReport> apply(const std::vector<DeviceSpec>& specs,
                            const SuspendOptions& options = {});
  /// What apply() would do: the legs are opened and checked, and nothing changes.
  Result<ApplyReport> check(const std::vector<DeviceSpec>& specs);

  Result<DeviceHandle> open(std::string_view name);
  /// Opens a device for one user alone. While the handle lives nobody else opens it, nor stands
  /// another device on it: `why` is what they are told. Errc::busy: it is open now.
  Result<DeviceHandle> claim(std::string_view name, std::string why);
  Result<std::shared_ptr<Device>> find(std::string_view name) const;
  Result<std::shared_ptr<Device>> find_uuid(std::string_view uuid) const;
  std::vector<std::shared_ptr<Device>> list() const;  ///< by name
  Events& events() noexcept { return events_; }
  /// Who is asked for a `dev:` leg that is no device here. Before the first table; it outlives
  /// them.
  void set_outside(DeviceResolver* outside) noexcept { outside_ = outside; }

  /// Restores what the store holds, merged with the configuration's devices, and saves every
  /// change from now on. A run-time change outlives a restart until the configuration's own text
  /// for that device changes. A device whose legs are missing is kept without a table, and its
  /// info() says why.
  Result<void> start(std::unique_ptr<StateStore> store, const std::vector<DeviceSpec>& configured);

  /// The configuration was read again: applies what changed in it since the last time.
  Result<ApplyReport> reconfigure(const std::vector<DeviceSpec>& configured);

  /// Ends every queued and held request with Errc::shutdown, and all later ones; waits at most
  /// `wait` for those in flight. Idempotent.
  void shut_down(Duration wait = std::chrono::seconds(5));

 private:
  friend class DeviceHandle;
  friend class LoadScope;
  class Transaction;

  /// What the configuration said of a device when it was last applied.
  struct Configured {
    std::string signature;
    std::weak_ptr<Device> device;  ///< expired: removed at run time
  };

  /// Edges of live, inactive and half-built tables; without those that `change` will replace.
  StackGraph stacks_locked(const Change* change) const;
  std::shared_ptr<Device> make_device(const DeviceSpec& spec);
  Result<void> check_new_locked(const DeviceSpec& spec) const;
  /// Fails if the uuid belongs to a device other than `owner`. An empty one belongs to nobody.
  Result<void> check_uuid(std::string_view uuid, const Device* owner) const;
  Result<void> check_uuid_locked(std::string_view uuid, const Device* owner) const;
  Result<std::shared_ptr<Table>> build_table(const std::shared_ptr<Device>& device,
                                             std::string_view text, bool read_only);
  Result<void> restore_failed(const std::shared_ptr<Device>& device);
  void announce_swap(Device& device, Bytes old_size);
  void close(const std::shared_ptr<Device>& device);
  void remove_when_closed(const std::shared_ptr<Device>& device);
  void end_device(const std::shared_ptr<Device>& device, Errc status, Duration wait);
  void reap();
  std::vector<std::string> users_of(const Device& device) const;
  Result<void> save(std::string_view done);
  SavedState snapshot() const;
  /// The device that the configuration's word became, whatever its name is now; nullptr: it was
  /// removed, or goes with its last close.
  std::shared_ptr<Device> present_locked(const Configured& configured) const;
  void bring_up(const std::vector<DeviceSpec>& specs);
  void remember(const DeviceSpec& spec, const std::shared_ptr<Device>& device);

  const DeviceLimits limits_;
  NamedMemory memories_;
  DeviceResolver* outside_ = nullptr;
  Events events_;
  TimerQueue timers_{"bl-timer"};
  TimerQueue worker_{"bl-worker"};  // leases, removals
  TimerQueue retries_{"bl-retry"};  // what `dev:` legs send again after a resume; may do I/O

  // Names and the graph of stacked devices. Taken before a device's names lock; never held while
  // anything waits, or while a table is built or destroyed.
  mutable std::mutex mutex_;
  std::map<std::string, std::shared_ptr<Device>, std::less<>> devices_;
  std::map<std::string, Configured, std::less<>> configured_;
  std::vector<class LoadScope*> loading_;
  std::uint64_t stacks_version_ = 0;            ///< counts what may add an edge to the stacks
  std::vector<std::shared_ptr<Device>> ended_;  ///< removed by force, requests still out
  std::uint32_t next_minor_ = 0;
  bool shut_down_ = false;

  std::mutex save_mutex_;  // protects the store; taken before mutex_
  std::unique_ptr<StateStore> store_;
};

}  // namespace blockloom
