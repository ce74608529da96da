#pragma once

#include <atomic>
#include <cstdint>
#include <memory>
#include <mutex>
#include <thread>
#include <vector>

namespace blockloom {

class LogicalUnit;
struct ScsiTask;
struct UnitState;

/// What a unit's sanitize operation has come to (SBC-3 4.11). Failed: it refuses commands that
/// touch the medium until another operation succeeds, or EXIT FAILURE MODE.
enum class SanitizeState : std::uint8_t { none, running, failed };

/// Of a unit. `waiter` is under the unit's mutex.
struct Sanitizing {
  std::atomic<SanitizeState> state{SanitizeState::none};
  std::atomic<std::uint16_t> progress{0};  ///< in 65,536ths
  bool may_exit = false;                   ///< AUSE
  ScsiTask* waiter = nullptr;              ///< the command, unless it did not want to wait
};

/// What is to be done.
struct SanitizePlan {
  std::vector<std::uint8_t> block;  ///< what every block becomes
  unsigned passes = 1;
  bool inverts = false;  ///< every other pass
  bool unmaps = false;   ///< in the end
};

/// The sanitize operations that run, each on a thread of its own ("bl-sanitize"): it goes on
/// whatever becomes of the session that asked for it. Any thread.
class Sanitizers {
 public:
  /// Ends them all, wherever they are.
  ~Sanitizers();

  /// The unit is marked as running already. False: there is no thread to be had.
  bool start(std::shared_ptr<LogicalUnit> unit, SanitizePlan plan) noexcept;

 private:
  struct Job {
    std::thread thread;
    std::atomic<bool> ended{false};
  };

  void run(LogicalUnit& unit, const SanitizePlan& plan) noexcept;
  void reap_locked();

  std::atomic<bool> stopping_{false};
  std::mutex mutex_;
  std::vector<std::unique_ptr<Job>> jobs_;
};

}  // namespace blockloom
