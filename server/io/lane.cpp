#include "server/io/lane.hpp"

#include <algorithm>
#include <condition_variable>
#include <deque>
#include <mutex>
#include <system_error>
#include <thread>

#include "server/base/leave_alone.hpp"
#include "server/base/thread.hpp"

namespace blockloom {
namespace {

// A leg that takes longer for a request than this blocks its thread, and one thread a request is
// faster than a queue; a page cache takes a few microseconds.
constexpr std::uint64_t slow_ns = 50'000;
// Behind an operation that may take long nothing should wait, however quick the leg is otherwise.
constexpr std::uint64_t long_transfer = 256 << 10;
// How long the end waits for threads that are inside the leg.
constexpr Duration patience = std::chrono::milliseconds(200);

bool may_take_long(const Io& io) noexcept {
  return io.op == Op::flush || io.op == Op::trim || io.op == Op::zero || io.has(io_flag::fua) ||
         io.length.value > long_transfer;
}

}  // namespace

namespace {
/// The lane that the calling thread belongs to, if any.
thread_local const void* own_lane = nullptr;
}  // namespace

struct Lane::State : std::enable_shared_from_this<State> {
  State(std::string name, std::shared_ptr<Leg> l, unsigned most)
      : thread_name(std::move(name)), leg(std::move(l)), most_threads(most) {}

  struct Worker {
    std::thread thread;
    bool ended = false;  // about to leave run()
  };

  bool start_thread_locked() noexcept;
  bool want_another_locked() const noexcept;
  void run(Worker& worker) noexcept;
  void carry(Item& item) noexcept;

  const std::string thread_name;
  const std::shared_ptr<Leg> leg;
  const unsigned most_threads;

  std::mutex mutex;  // protects what follows
  std::condition_variable work, gone;
  Item* head = nullptr;
  Item* tail = nullptr;
  unsigned threads = 0, idle = 0;
  unsigned woken = 0;         // notified, and not awake yet
  unsigned busy_long = 0;     // threads inside an operation that may take long
  std::uint64_t mean_ns = 0;  // of a request in the leg; recent ones count most
  bool stopping = false;
  std::deque<Worker> workers;  // a place never moves
};

Lane::Lane(std::string thread_name, std::shared_ptr<Leg> leg, unsigned most_threads)
    : state_(std::make_shared<State>(std::move(thread_name), std::move(leg), most_threads)) {}

Lane::~Lane() {
  std::unique_lock lock(state_->mutex);
  state_->stopping = true;
  state_->work.notify_all();
  // The last hold on a lane may be let go by its own thread, which cannot wait for itself.
  const unsigned own = own_lane == state_.get() ? 1 : 0;
  state_->gone.wait_for(lock, patience, [&] { return state_->threads <= own; });
  for (State::Worker& worker : state_->workers) {
    // One that hangs in the leg cannot be joined; it has its own hold on the state.
    if (!worker.ended) {
      leave_alone(worker.thread);
      continue;
    }
    lock.unlock();
    worker.thread.join();
    lock.lock();
  }
}

bool Lane::State::start_thread_locked() noexcept {
  const std::size_t before = workers.size();
  try {
    Worker& worker = workers.emplace_back();
    worker.thread = std::thread([self = shared_from_this(), &worker] { self->run(worker); });
  } catch (const std::exception&) {  // no thread, or no memory
    if (workers.size() > before) workers.pop_back();
    return threads > 0;
  }
  ++threads;
  return true;
}

/// Whether the threads that are awake are too few for what waits.
bool Lane::State::want_another_locked() const noexcept {
  const unsigned awake = threads - idle + woken;
  const unsigned draining = awake - std::min(awake, busy_long);
  return draining == 0 || (mean_ns > slow_ns && woken == 0);
}

bool Lane::push(Item& item) noexcept {
  State& s = *state_;
  const std::lock_guard lock(s.mutex);
  if (s.stopping) return false;
  if (s.want_another_locked()) {
    if (s.idle > s.woken) {
      ++s.woken;
      s.work.notify_one();
    } else if (s.threads < s.most_threads && !s.start_thread_locked()) {
      return false;
    }
  }
  item.next = nullptr;
  item.previous = s.tail;
  item.queued = true;
  (s.tail != nullptr ? s.tail->next : s.head) = &item;
  s.tail = &item;
  return true;
}

bool Lane::take_back(Item& item) noexcept {
  State& s = *state_;
  const std::lock_guard lock(s.mutex);
  if (!item.queued) return false;
  (item.previous != nullptr ? item.previous->next : s.head) = item.next;
  (item.next != nullptr ? item.next->previous : s.tail) = item.previous;
  item.queued = false;
  return true;
}

void Lane::State::carry(Item& item) noexcept {
  if (leg->submit(*item.io) == Submit::done) item.done(item);
}

void Lane::State::run(Worker& worker) noexcept {
  set_thread_name(thread_name);
  block_signals();
  own_lane = this;
  std::unique_lock lock(mutex);
  while (!stopping || head != nullptr) {
    if (head == nullptr) {
      ++idle;
      work.wait(lock);
      --idle;
      if (woken > 0) --woken;
      continue;
    }
    Item& item = *head;
    head = item.next;
    (head != nullptr ? head->previous : tail) = nullptr;
    item.queued = false;
    const bool is_long = may_take_long(*item.io);
    if (is_long) {
      ++busy_long;
      // What waits behind it needs another thread.
      if (head != nullptr && idle > woken && want_another_locked()) {
        ++woken;
        work.notify_one();
      }
    }
    lock.unlock();
    const std::uint64_t start = now_ns();
    carry(item);  // the item may be gone
    const std::uint64_t took = now_ns() - start;
    lock.lock();
    if (is_long)
      --busy_long;
    else
      mean_ns = (mean_ns * 7 + took) / 8;
  }
  --threads;
  worker.ended = true;
  gone.notify_all();
}

}  // namespace blockloom
