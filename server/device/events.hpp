#pragma once

#include <condition_variable>
#include <cstdint>
#include <deque>
#include <functional>
#include <map>
#include <mutex>
#include <string>
#include <vector>

#include "server/base/clock.hpp"

namespace blockloom {

/// Something that happened to a device. `kind` is one of: created, loaded, cleared, suspended,
/// resumed, swapped, resized, renamed, removed, lease_expired, failed, message.
struct Event {
  std::uint64_t sequence = 0;  ///< over all devices, from 1
  double time_s = 0;           ///< seconds since 1970
  std::string device;
  std::uint32_t device_event = 0;  ///< the device's event number after it
  std::string kind;
  std::string detail;
};

/// The registry's events: the last 1,024 are kept; listeners hear each as it happens. Any thread.
class Events {
 public:
  static constexpr std::size_t kept = 1024;
  using Listener = std::function<void(const Event&)>;

  void publish(Event event);

  /// Those after `sequence` that are still kept, oldest first.
  std::vector<Event> since(std::uint64_t sequence) const;
  std::uint64_t last_sequence() const;

  /// The listener runs on the thread of the event, under a lock: it posts and returns. After
  /// unlisten() has returned it will not run again.
  std::uint64_t listen(Listener listener);
  void unlisten(std::uint64_t id);

 private:
  mutable std::mutex mutex_;
  std::deque<Event> recent_;
  std::map<std::uint64_t, Listener> listeners_;
  std::uint64_t next_listener_ = 1;
  std::uint64_t next_sequence_ = 1;
};

}  // namespace blockloom
