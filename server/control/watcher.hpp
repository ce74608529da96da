#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <list>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "proto/control/value.hpp"
#include "server/base/clock.hpp"
#include "server/base/error.hpp"
#include "server/control/params.hpp"
#include "server/device/registry.hpp"

namespace blockloom::control {

/// The verbs that events answer: `wait` and `events`. Knows neither sockets nor threads: its
/// owner calls it from one thread, pump() after something happened and expire() when a time-out
/// is due.
class Watcher {
 public:
  /// Who asked: all that it asked for ends with it.
  using Owner = std::uint64_t;
  using Answer = std::function<void(Result<rpc::Value>)>;
  /// Called for each event that a follower asked for.
  using Notify = std::function<void(std::string_view method, const rpc::Value& params)>;

  static constexpr std::size_t waits_per_owner = 32;

  explicit Watcher(Registry& registry);

  /// Answers when the device's event number passes `event_number` (by default what it is now),
  /// when the device is removed, or when the time is over. May answer at once.
  void wait(Owner owner, const Params& params, TimePoint now, Answer answer);

  /// Answers at once with the events that are kept after `since`; with `follow` later ones are
  /// notified, in order and without a gap, until drop().
  void events(Owner owner, const Params& params, const Answer& answer, Notify notify);

  void pump();
  void expire(TimePoint now);
  std::optional<TimePoint> next_deadline() const;

  void drop(Owner owner);
  /// Whether the owner waits for an event.
  bool has(Owner owner) const;
  /// Ends every wait with this error.
  void end_all(const Error& error);

 private:
  struct Wait {
    Owner owner;
    std::weak_ptr<Device> device;
    std::string name;  // for messages
    std::uint64_t event_number;
    std::optional<TimePoint> deadline;
    Answer answer;
    bool removed = false;
  };
  struct Follower {
    std::optional<std::string> device;
    std::uint64_t sequence;  // the last one it has
    Notify notify;
  };

  void pump_waits(const std::vector<Event>& events, bool lost);
  bool is_current(const std::shared_ptr<Device>& device) const;
  void pump_followers(const std::vector<Event>& events);
  void pump_follower(Follower& follower, const std::vector<Event>& events);

  Registry& registry_;
  std::uint64_t sequence_;  // of the last event that pump() has seen
  std::list<Wait> waits_;
  std::map<Owner, Follower> followers_;
};

}  // namespace blockloom::control
