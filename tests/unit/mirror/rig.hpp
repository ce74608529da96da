#pragma once

#include <algorithm>
#include <vector>

#include <doctest/doctest.h>

#include "server/target/mirror/state.hpp"
#include "tests/unit/mirror/log_medium.hpp"

namespace blockloom::mirror::test {

inline constexpr std::uint64_t region_size = 64 << 10;

/// A state machine by itself: events by hand, and the actions that came of them.
class Rig {
 public:
  static Config two_legs(Time timeout = second, std::uint64_t regions = 16) {
    Config config;
    config.size = regions * region_size;
    config.region_size = region_size;
    config.max_requests = 16;
    config.copy_chunk = region_size;
    config.copies = 1;
    config.legs.resize(2);
    for (LegConfig& leg : config.legs)
      leg.timeout = timeout;
    return config;
  }

  explicit Rig(const Config& c, bool sync = false) : config(c), medium(c.size / region_size) {
    LogIdentity identity = identity_of(c.size / region_size, 0, region_size);
    for (unsigned i = 0; i < c.legs.size(); ++i)
      if (c.legs[i].present) identity.roles[i] = Role::member;
    make(RegionLog::create(identity, sync).value());
  }

  void make(RegionLog log) {
    Result<std::unique_ptr<State>> made = State::create(config, std::move(log));
    REQUIRE(made);
    state = std::move(made).value();
  }

  /// Carries an event in; the log's commits wait for commit().
  Actions& feed(const Event& event) {
    actions.clear();
    state->on(event, actions);
    return actions;
  }
  /// The log's commit becomes durable. What it set off is in `actions`.
  Actions& commit(bool ok = true) {
    std::vector<LogWrite> batch;
    REQUIRE(state->log().committing());
    while (state->log().next_batch(batch))
      for (const LogWrite& w : batch)
        if (ok) medium.write(w);
    return feed(Event::log_committed(now, ok));
  }
  /// Starts it with all of its legs, or without some.
  void start(LegMask missing = 0) {
    feed(Event::start(now));
    commit();
    for (unsigned i = 0; i < config.legs.size(); ++i) {
      if (!config.legs[i].present) continue;
      if ((missing & leg_bit(i)) != 0)
        feed(Event::fence_ended(now, i, FenceEnd::none));
      else
        fence_and_open(i);
    }
    if (state->log().committing()) commit();
  }
  void fence_and_open(unsigned leg) {
    feed(Event::fence_ended(now, leg, FenceEnd::proof));
    if (!has(Action::Type::open)) {
      now = state->leg(leg).retry_at;
      feed(Event::tick(now));
    }
    REQUIRE(has(Action::Type::open));
    feed(Event::opened(now, leg, true));
  }
  /// A write to a region until it is answered; makes the region dirty.
  void warm(std::uint64_t offset) {
    feed(Event::submit(now, 15, Kind::write, offset, 512));
    if (state->log().committing()) commit();
    for (const OpId op : sends())
      feed(Event::op_ended(now, op, OpEnd::ok));
    REQUIRE(has(Action::Type::answer));
  }
  Actions& write(Slot slot, std::uint64_t offset, std::uint64_t length = 4096) {
    return feed(Event::submit(now, slot, Kind::write, offset, length));
  }
  Actions& read(Slot slot, std::uint64_t offset, std::uint64_t length = 4096) {
    return feed(Event::submit(now, slot, Kind::read, offset, length));
  }
  Actions& end(OpId op, OpEnd how = OpEnd::ok, Errc errc = Errc::ok) {
    return feed(Event::op_ended(now, op, how, errc));
  }
  Actions& later(Time pause) {
    now += pause;
    return feed(Event::tick(now));
  }

  bool has(Action::Type type) const { return count(type) > 0; }
  std::size_t count(Action::Type type) const {
    return static_cast<std::size_t>(std::count_if(actions.begin(), actions.end(),
                                                  [&](const Action& a) { return a.type == type; }));
  }
  const Action& the(Action::Type type) const {
    const auto found = std::find_if(actions.begin(), actions.end(),
                                    [&](const Action& a) { return a.type == type; });
    REQUIRE(found != actions.end());
    return *found;
  }
  bool noticed(Notice notice) const {
    return std::any_of(actions.begin(), actions.end(), [&](const Action& a) {
      return a.type == Action::Type::notice && a.notice == notice;
    });
  }
  /// The ops of the last actions' sends, by leg.
  std::vector<OpId> sends() const {
    std::vector<OpId> ops;
    for (const Action& a : actions)
      if (a.type == Action::Type::send) ops.push_back(a.op);
    return ops;
  }
  LegState leg(unsigned i) const { return state->leg(i).state; }

  Config config;
  Medium medium;
  std::unique_ptr<State> state;
  Actions actions;
  Time now = 1000 * second;
};

}  // namespace blockloom::mirror::test
