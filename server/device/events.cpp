#include "server/device/events.hpp"

namespace blockloom {

void Events::publish(Event event) {
  std::lock_guard lock(mutex_);
  event.sequence = next_sequence_++;
  event.time_s =
      std::chrono::duration<double>(std::chrono::system_clock::now().time_since_epoch()).count();
  recent_.push_back(event);
  if (recent_.size() > kept) recent_.pop_front();
  for (const auto& [id, listener] : listeners_)
    listener(event);
}

std::vector<Event> Events::since(std::uint64_t sequence) const {
  std::lock_guard lock(mutex_);
  std::vector<Event> events;
  for (const Event& event : recent_)
    if (event.sequence > sequence) events.push_back(event);
  return events;
}

std::uint64_t Events::last_sequence() const {
  std::lock_guard lock(mutex_);
  return next_sequence_ - 1;
}

std::uint64_t Events::listen(Listener listener) {
  std::lock_guard lock(mutex_);
  const std::uint64_t id = next_listener_++;
  listeners_.emplace(id, std::move(listener));
  return id;
}

void Events::unlisten(std::uint64_t id) {
  std::lock_guard lock(mutex_);
  listeners_.erase(id);
}

}  // namespace blockloom
