#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "server/base/error.hpp"

namespace blockloom {

/// A device as it is kept over a restart.
struct SavedDevice {
  std::string name, uuid, description;
  std::string table;     ///< the live one; empty: none
  std::string inactive;  ///< empty: none
  bool read_only = false;
  bool inactive_read_only = false;
  std::uint64_t epoch = 0;  ///< that clients fenced it with

  bool operator==(const SavedDevice&) const = default;
};

/// What the configuration said of a device, so that a later start can tell whether the file or
/// the run-time change is the newer word.
struct SavedConfigured {
  std::string name;       ///< in the configuration
  std::string signature;  ///< of its text there
  std::string device;     ///< its name now; empty: it was removed at run time

  bool operator==(const SavedConfigured&) const = default;
};

struct SavedState {
  std::vector<SavedDevice> devices;
  std::vector<SavedConfigured> configured;

  bool operator==(const SavedState&) const = default;
};

/// A state as a file's bytes: a line "blockloom-state 1 GENERATION LENGTH CRC32C", then JSON.
std::string encode_state(const SavedState& state, std::uint64_t generation);

/// The generation and the state; Errc::corrupt says what was wrong. Any bytes are safe.
Result<std::pair<std::uint64_t, SavedState>> decode_state(std::string_view bytes);

/// The folder that keeps the state: two files, of which the older is replaced by write, fsync,
/// rename and fsync of the folder. At any instant the newest whole one is what the last save()
/// that returned wrote, or the one that was under way. One process at a time (a lock file).
class StateStore {
 public:
  /// Makes the folder (0700) if needed, and locks it. Errc::busy: another process has it.
  static Result<std::unique_ptr<StateStore>> open(std::string folder);
  ~StateStore();
  StateStore(const StateStore&) = delete;
  StateStore& operator=(const StateStore&) = delete;

  /// nullopt: nothing was ever saved. A damaged file is passed over, with a warning, while the
  /// other one is whole; Errc::corrupt if there is no whole one.
  Result<std::optional<SavedState>> load();

  /// Durable when it returns ok. On an error the state saved before stands.
  Result<void> save(const SavedState& state);

 private:
  StateStore(std::string folder, int folder_fd, int lock_fd);
  std::string path(const char* name) const { return folder_ + "/" + name; }

  const std::string folder_;
  const int folder_fd_;
  const int lock_fd_;
  std::uint64_t generation_ = 0;  // of the newest whole file
  int newest_slot_ = 1;
};

}  // namespace blockloom
