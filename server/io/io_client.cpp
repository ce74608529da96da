#include "server/io/io_client.hpp"

#include <algorithm>
#include <condition_variable>
#include <mutex>

#include <fmt/format.h>

#include "server/io/io_slot.hpp"

namespace blockloom {

/// Visits the requests that are out, each held by a reference meanwhile.
template <class Visit>
void IoClient::Core::each_used(Visit visit) {
  std::size_t slots = 0;
  {
    const std::lock_guard lock(mutex);
    slots = chunk_count * chunk_slots;
  }
  for (std::size_t i = 0; i < slots; ++i) {
    Slot& slot = (*chunks[i / chunk_slots])[i % chunk_slots];
    std::uint32_t generation = 0;
    {
      const std::lock_guard lock(slot.mutex);
      if (slot.used) generation = slot.generation;
    }
    if (generation == 0 || find({slot.index, generation}) == nullptr) continue;
    visit(slot);
    unref(slot);
  }
}

// --- Life -------------------------------------------------------------------------------------

IoClient::IoClient(std::shared_ptr<Core> core, std::shared_ptr<DeadlineWheel> wheel)
    : wheel_(std::move(wheel)), core_(std::move(core)) {}

Result<std::unique_ptr<IoClient>> IoClient::create(const Options& options) {
  auto wheel = DeadlineWheel::shared();
  auto core = std::make_shared<Core>(options, *wheel);
  auto buffers = IoBufferPool::create(options.buffers);
  if (!buffers) return buffers.error();
  core->buffers = std::move(*buffers);
  {
    const std::lock_guard lock(core->mutex);
    while (core->chunk_count * Core::chunk_slots < options.requests)
      if (!core->grow_locked())
        return Error{Errc::no_memory,
                     fmt::format("no memory for {} requests at a time", options.requests)};
  }
  return std::unique_ptr<IoClient>(new IoClient(std::move(core), std::move(wheel)));
}

IoClient::~IoClient() {
  core_->gate.close();
  // Whoever tells now is waited for; nobody begins any more, and no timer is armed again.
  core_->telling.close();
  core_->telling.wait_idle(TimePoint::max());
  core_->each_used([&](Slot& slot) {
    if (wheel_->disarm(slot.timer)) core_->unref(slot);
    core_->forget_unresolved(slot);
  });
  core_->places = {};
}

Result<void> IoClient::start() {
  return wheel_->start();
}

void IoClient::set_leg(std::uint32_t place, std::shared_ptr<Leg> leg, const LegOptions& options) {
  if (leg == nullptr) {
    core_->places[place].reset();
    return;
  }
  auto made = std::make_shared<Place>();
  made->number = place;
  made->here = leg->inline_only() && !options.lane;
  made->options = options;
  made->remote = leg->remote();
  made->leg = std::move(leg);
  if (options.lane)
    made->lane = std::make_unique<Lane>(fmt::format("{}-lane{}", core_->options.name, place),
                                        made->leg, options.lane_threads);
  core_->places[place] = std::move(made);
}

const std::shared_ptr<Leg>& IoClient::leg(std::uint32_t place) const noexcept {
  static const std::shared_ptr<Leg> none;
  return place < max_io_legs && core_->places[place] ? core_->places[place]->leg : none;
}

// --- Requests ---------------------------------------------------------------------------------

Submit IoClient::submit(const IoRequest& request, IoResults& results, IoHandle* handle) noexcept {
  if (handle != nullptr) *handle = {};
  return core_->send(request, results, handle, false);
}

IoResults IoClient::run(IoRequest request) noexcept {
  struct Waiter {
    std::mutex mutex;
    std::condition_variable told;
    std::size_t left;
    IoResults results;
  } waiter;
  waiter.left = request.regions.size();
  request.context = &waiter;
  request.notify = [](const IoNotice& notice, void* context) noexcept {
    auto& w = *static_cast<Waiter*>(context);
    // Told under the mutex, so that the waiter cannot leave before the last touch.
    const std::lock_guard lock(w.mutex);
    w.results.states[notice.region] = notice.state;
    w.results.status[notice.region] = notice.status;
    if (--w.left == 0) w.told.notify_one();
  };
  // Second notices would find the waiter gone.
  IoResults here;
  if (core_->send(request, here, nullptr, true) == Submit::done) return here;
  std::unique_lock lock(waiter.mutex);
  waiter.told.wait(lock, [&] { return waiter.left == 0; });
  return waiter.results;
}

bool IoClient::cancel(IoHandle handle) noexcept {
  Slot* const slot = core_->find(handle);
  if (slot == nullptr) return false;
  for (std::uint32_t i = 0; i < slot->count; ++i)
    core_->give_up(*slot, slot->parts[i], RegionState::cancelled, true);
  core_->unref(*slot);
  return true;
}

std::size_t IoClient::cancel_leg(std::uint32_t place) noexcept {
  std::size_t cancelled = 0;
  core_->each_used([&](Slot& slot) {
    for (std::uint32_t i = 0; i < slot.count; ++i)
      if (slot.parts[i].region.leg == place &&
          core_->give_up(slot, slot.parts[i], RegionState::cancelled, true))
        ++cancelled;
  });
  return cancelled;
}

std::size_t IoClient::fenced(std::uint32_t place, Errc status) noexcept {
  std::size_t fenced = 0;
  core_->each_used([&](Slot& slot) {
    for (std::uint32_t i = 0; i < slot.count; ++i)
      if (slot.parts[i].region.leg == place && core_->fence_part(slot, slot.parts[i], status))
        ++fenced;
  });
  return fenced;
}

// --- The gate, and what is late ---------------------------------------------------------------

bool IoClient::close(TimePoint deadline) noexcept {
  core_->gate.close();
  return core_->gate.wait_idle(deadline);
}

void IoClient::open() noexcept {
  core_->gate.open();
}

bool IoClient::wait_quiet(TimePoint deadline) noexcept {
  std::unique_lock lock(core_->mutex);
  return core_->quiet.wait_until(lock, deadline, [&] { return core_->in_use == 0; });
}

std::vector<IoClient::Out> IoClient::out(std::size_t most) const {
  std::vector<Out> found;
  const std::uint64_t now = now_ns();
  core_->each_used([&](Slot& slot) {
    const std::lock_guard lock(slot.mutex);
    for (std::uint32_t i = 0; i < slot.count; ++i) {
      const Part& part = slot.parts[i];
      if (!part.out || found.size() >= most) continue;
      found.push_back({part.place->leg->uri(), part.io.op, part.region.offset, part.region.length,
                       std::chrono::nanoseconds(now - std::min(now, part.start_ns)), part.state});
    }
  });
  return found;
}

std::uint64_t IoClient::pending(std::uint32_t place) const noexcept {
  const auto& p = core_->places[place];
  return p ? p->pending.load(std::memory_order_relaxed) : 0;
}

std::uint64_t IoClient::late(std::uint32_t place) const noexcept {
  const auto& p = core_->places[place];
  return p ? p->late.load(std::memory_order_relaxed) : 0;
}

Bytes IoClient::late_bytes(std::uint32_t place) const noexcept {
  const auto& p = core_->places[place];
  return Bytes(p ? p->late_bytes.load(std::memory_order_relaxed) : 0);
}

IoBufferPool& IoClient::buffers() noexcept {
  return *core_->buffers;
}

}  // namespace blockloom
