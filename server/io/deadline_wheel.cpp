#include "server/io/deadline_wheel.hpp"

#include <algorithm>
#include <bit>
#include <system_error>

#include "server/base/thread.hpp"

namespace blockloom {

DeadlineWheel::DeadlineWheel(std::string thread_name)
    : thread_name_(std::move(thread_name)), done_(tick_of(Clock::now())) {}

DeadlineWheel::~DeadlineWheel() {
  stop();
}

std::shared_ptr<DeadlineWheel> DeadlineWheel::shared() {
  static std::mutex mutex;
  static std::weak_ptr<DeadlineWheel> known;
  const std::lock_guard lock(mutex);
  auto wheel = known.lock();
  if (!wheel) known = wheel = std::make_shared<DeadlineWheel>("bl-deadline");
  return wheel;
}

/// Rounded up: nothing fires early.
std::uint64_t DeadlineWheel::tick_of(TimePoint when) noexcept {
  const auto since = std::max(when.time_since_epoch(), Duration::zero());
  return static_cast<std::uint64_t>((since + tick - Duration(1)) / tick);
}

Result<void> DeadlineWheel::start() {
  const std::lock_guard lock(life_);
  if (thread_.joinable()) return {};
  try {
    thread_ = std::thread([this] { run(); });
  } catch (const std::system_error& e) {
    return Error{Errc::no_memory, std::string("no thread for deadlines: ") + e.what()};
  }
  return {};
}

void DeadlineWheel::stop() noexcept {
  const std::lock_guard life(life_);
  if (!thread_.joinable()) return;
  {
    const std::lock_guard lock(mutex_);
    stopping_ = true;
    changed_.notify_all();
  }
  thread_.join();
  stopping_ = false;
}

void DeadlineWheel::arm(Node& node, TimePoint when) noexcept {
  const std::uint64_t due = tick_of(when);
  const std::lock_guard lock(mutex_);
  // One that is due already goes to the next slot to be looked at.
  node.due = std::max(due, done_ + 1);
  node.armed = true;
  const std::size_t slot = node.due % slots;
  node.previous = nullptr;
  node.next = heads_[slot];
  if (node.next != nullptr) node.next->previous = &node;
  heads_[slot] = &node;
  occupied_[slot / 64] |= std::uint64_t{1} << (slot % 64);
  if (node.due < wake_) {
    wake_ = node.due;
    changed_.notify_one();
  }
}

bool DeadlineWheel::disarm(Node& node) noexcept {
  const std::lock_guard lock(mutex_);
  if (!node.armed) return false;
  unlink_locked(node);
  return true;
}

void DeadlineWheel::unlink_locked(Node& node) noexcept {
  const std::size_t slot = node.due % slots;
  (node.previous != nullptr ? node.previous->next : heads_[slot]) = node.next;
  if (node.next != nullptr) node.next->previous = node.previous;
  if (heads_[slot] == nullptr) occupied_[slot / 64] &= ~(std::uint64_t{1} << (slot % 64));
  node.armed = false;
}

/// The first tick at or after `from` whose slot holds something.
std::uint64_t DeadlineWheel::next_slot_locked(std::uint64_t from) const noexcept {
  const std::size_t start = from % slots;
  for (std::size_t step = 0; step <= slots / 64; ++step) {
    const std::size_t word = (start / 64 + step) % (slots / 64);
    std::uint64_t bits = occupied_[word];
    // The first word is looked at twice: from the start on, and at the end what lies before it.
    if (step == 0) bits &= ~std::uint64_t{0} << (start % 64);
    if (step == slots / 64) bits &= (std::uint64_t{1} << (start % 64)) - 1;
    if (bits == 0) continue;
    const std::size_t slot = word * 64 + static_cast<std::size_t>(std::countr_zero(bits));
    return from + (slot + slots - start) % slots;
  }
  return never;
}

/// Unlinks all that is due and gives it back as a list.
DeadlineWheel::Node* DeadlineWheel::take_due_locked(std::uint64_t now) noexcept {
  Node* due = nullptr;
  for (std::uint64_t at = next_slot_locked(done_ + 1); at <= now; at = next_slot_locked(at + 1)) {
    for (Node* node = heads_[at % slots]; node != nullptr;) {
      Node* const next = node->next;
      if (node->due <= now) {
        unlink_locked(*node);
        node->next = std::exchange(due, node);
      }
      node = next;
    }
    if (at + 1 - done_ > slots) break;  // a whole turn
  }
  done_ = std::max(done_, now);
  return due;
}

void DeadlineWheel::run() noexcept {
  set_thread_name(thread_name_);
  block_signals();
  std::unique_lock lock(mutex_);
  while (!stopping_) {
    // Rounded down: the tick that has passed.
    const std::uint64_t now = tick_of(Clock::now() - tick + Duration(1));
    Node* due = take_due_locked(now);
    if (due != nullptr) {
      lock.unlock();
      while (due != nullptr) {
        Node* const node = due;
        due = node->next;  // fire() may free the node
        node->fire(*node);
      }
      lock.lock();
      continue;
    }
    wake_ = next_slot_locked(done_ + 1);
    if (wake_ == never)
      changed_.wait(lock);
    else
      changed_.wait_until(lock, TimePoint(Duration(static_cast<Duration::rep>(wake_) * tick)));
    wake_ = 0;  // awake: nobody need tell
  }
  wake_ = never;
}

}  // namespace blockloom
