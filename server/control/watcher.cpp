#include "server/control/watcher.hpp"

#include <algorithm>
#include <utility>
#include <vector>

#include <fmt/format.h>

#include "server/control/verb.hpp"

namespace blockloom::control {

using rpc::Value;

Value to_value(const Event& event) {
  Value value = Value::object();
  value.set("sequence", event.sequence)
      .set("time_s", event.time_s)
      .set("device", event.device)
      .set("event_number", event.device_event)
      .set("kind", event.kind)
      .set("detail", event.detail);
  return value;
}

namespace {

Value waited(const std::string& name, std::uint32_t event_number) {
  Value value = Value::object();
  value.set("name", name).set("event_number", event_number);
  return value;
}

}  // namespace

Watcher::Watcher(Registry& registry)
    : registry_(registry), sequence_(registry.events().last_sequence()) {}

void Watcher::wait(Owner owner, const Params& params, TimePoint now, Answer answer) {
  auto device = find_device(registry_, params);
  if (!device) return answer(device.error());
  const std::uint32_t current = (*device)->event_number();
  const std::uint64_t after = params.has("event_number") ? params.count("event_number") : current;
  if (current > after) return answer(waited((*device)->name(), current));
  const auto mine = std::count_if(waits_.begin(), waits_.end(),
                                  [&](const Wait& wait) { return wait.owner == owner; });
  if (static_cast<std::size_t>(mine) >= waits_per_owner)
    return answer(Error{
        Errc::limit, fmt::format("this connection waits for {} events already", waits_per_owner)});
  Wait wait{owner, *device, (*device)->name(), after, {}, std::move(answer), false};
  if (params.has("timeout_s")) wait.deadline = now + params.seconds("timeout_s");
  // An event after the number was read above is still to be pumped: this is the pumping thread.
  waits_.push_back(std::move(wait));
}

void Watcher::events(Owner owner, const Params& params, const Answer& answer, Notify notify) {
  const bool follow = params.flag("follow");
  if (follow && followers_.contains(owner))
    return answer(Error{Errc::busy, "this connection follows events already"});
  std::optional<std::string> device;
  if (params.has("device")) device = params.text("device");

  const std::uint64_t last = registry_.events().last_sequence();
  // Without `since` a follower gets what comes, and one who only asks gets what is kept.
  std::uint64_t since = params.count("since");
  if (follow && !params.has("since")) since = last;
  std::uint64_t sequence = last;
  std::uint64_t lost = 0;
  Value list = Value::array();
  const auto kept = registry_.events().since(since);
  if (!kept.empty()) {
    // Numbers have no gaps, so what is missing before the first one kept is gone.
    if (kept.front().sequence > since + 1) lost = kept.front().sequence - since - 1;
    sequence = kept.back().sequence;
  }
  for (const Event& event : kept)
    if (!device || event.device == *device) list.push(to_value(event));
  if (follow) followers_.emplace(owner, Follower{device, sequence, std::move(notify)});
  Value value = Value::object();
  value.set("events", std::move(list)).set("last_sequence", sequence).set("lost", lost);
  answer(value);
}

void Watcher::pump() {
  const std::vector<Event> events = registry_.events().since(sequence_);
  if (events.empty()) return;
  const bool lost = events.front().sequence > sequence_ + 1;
  sequence_ = events.back().sequence;
  pump_waits(events, lost);
  pump_followers(events);
}

void Watcher::pump_waits(const std::vector<Event>& events, bool lost) {
  std::list<Wait> ended;
  for (auto at = waits_.begin(); at != waits_.end();) {
    const auto next = std::next(at);
    const auto device = at->device.lock();
    // A client that has it open keeps a removed device in memory, and it keeps its name.
    const bool maybe_removed =
        lost || (device && std::any_of(events.begin(), events.end(), [&](const Event& event) {
                   return event.kind == "removed" && event.device == device->name();
                 }));
    if (!device || (maybe_removed && !is_current(device))) at->removed = true;
    if (at->removed || device->event_number() > at->event_number)
      ended.splice(ended.end(), waits_, at);
    at = next;
  }
  // Answered outside the list: an answer may come back and ask again.
  for (Wait& wait : ended) {
    const auto device = wait.device.lock();
    if (device && !wait.removed)
      wait.answer(waited(device->name(), device->event_number()));
    else
      wait.answer(Error{Errc::removed, fmt::format("device '{}' was removed", wait.name)});
  }
}

bool Watcher::is_current(const std::shared_ptr<Device>& device) const {
  auto found = registry_.find(device->name());
  return found && *found == device;
}

void Watcher::pump_followers(const std::vector<Event>& events) {
  // Copied: telling a follower may drop it.
  std::vector<Owner> owners;
  for (const auto& [owner, follower] : followers_)
    owners.push_back(owner);
  for (const Owner owner : owners)
    if (const auto at = followers_.find(owner); at != followers_.end())
      pump_follower(at->second, events);
}

void Watcher::pump_follower(Follower& follower, const std::vector<Event>& events) {
  const Notify notify = follower.notify;
  const auto device = follower.device;
  const std::uint64_t had = follower.sequence;
  follower.sequence = std::max(had, events.back().sequence);
  if (events.front().sequence > had + 1) {
    Value value = Value::object();
    value.set("lost", events.front().sequence - had - 1);
    notify("events_lost", value);
  }
  for (const Event& event : events)
    if (event.sequence > had && (!device || event.device == *device))
      notify("event", to_value(event));
}

void Watcher::expire(TimePoint now) {
  std::list<Wait> ended;
  for (auto at = waits_.begin(); at != waits_.end();) {
    const auto next = std::next(at);
    if (at->deadline && *at->deadline <= now) ended.splice(ended.end(), waits_, at);
    at = next;
  }
  for (Wait& wait : ended)
    wait.answer(
        Error{Errc::timed_out, fmt::format("no event of device '{}' after number {} came in time",
                                           wait.name, wait.event_number)});
}

std::optional<TimePoint> Watcher::next_deadline() const {
  std::optional<TimePoint> first;
  for (const Wait& wait : waits_)
    if (wait.deadline && (!first || *wait.deadline < *first)) first = wait.deadline;
  return first;
}

void Watcher::drop(Owner owner) {
  waits_.remove_if([&](const Wait& wait) { return wait.owner == owner; });
  followers_.erase(owner);
}

bool Watcher::has(Owner owner) const {
  return std::any_of(waits_.begin(), waits_.end(),
                     [&](const Wait& wait) { return wait.owner == owner; });
}

void Watcher::end_all(const Error& error) {
  std::list<Wait> ended;
  ended.swap(waits_);
  followers_.clear();
  for (Wait& wait : ended)
    wait.answer(error);
}

}  // namespace blockloom::control
