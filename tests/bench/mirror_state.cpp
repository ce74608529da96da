#include <chrono>
#include <cstdint>
#include <string>
#include <vector>

#include <fmt/format.h>

#include "server/target/mirror/state.hpp"

// What the mirror's state machine costs a request, by the size of the mirror:
//   mirror-state [SECONDS]       one line a size; nothing but the machine, in one thread
namespace {

using namespace blockloom;
using namespace blockloom::mirror;
using Type = Action::Type;

constexpr std::uint64_t gib = std::uint64_t{1} << 30;

class Rig {
 public:
  explicit Rig(std::uint64_t size) {
    Config config;
    config.size = size;
    config.region_size = size > 1024 * gib ? 16 << 20 : 1 << 20;
    config.max_requests = 256;
    config.legs.resize(2);
    LogIdentity identity;
    identity.size = size;
    identity.region_size = config.region_size;
    identity.mirror = {1};
    identity.roles[0] = identity.roles[1] = Role::member;
    state = State::create(config, RegionLog::create(identity, false).value()).value();
    feed(Event::start(1));
    while (state->view(1).phase != MirrorView::Phase::serving) {
      const Actions now = actions;
      for (const Action& a : now) {
        if (a.type == Type::commit) commit();
        if (a.type == Type::fence) feed(Event::fence_ended(1, a.leg, FenceEnd::proof));
        if (a.type == Type::open) feed(Event::opened(1, a.leg, true));
        if (a.type != Type::notice) break;
      }
      for (unsigned leg = 0; leg < 2; ++leg) {
        if (state->leg(leg).state == LegState::fencing)
          feed(Event::fence_ended(1, leg, FenceEnd::proof));
        if (state->leg(leg).state == LegState::opening) feed(Event::opened(1, leg, true));
      }
    }
    // Where the writes go: as many regions as a busy disk has, over all of the device.
    for (std::uint64_t i = 0; i < places; ++i) {
      offsets.push_back(i * (size / places) / 4096 * 4096);
      feed(Event::submit(0, 0, Kind::write, offsets.back(), 4096));
      if (state->log().committing()) commit();
      for (const Action& a : Actions(actions))
        if (a.type == Type::send) feed(Event::op_ended(0, a.op, OpEnd::ok));
    }
  }

  void feed(const Event& event) {
    actions.clear();
    state->on(event, actions);
  }
  void commit() {
    while (state->log().next_batch(batch)) {
    }
    feed(Event::log_committed(1, true));
  }
  /// One write or read, both visits.
  void request(Slot slot, Kind kind, std::uint64_t offset) {
    feed(Event::submit(0, slot, kind, offset, 4096));
    feed(Event::all_ok(0, slot, actions[0].value));
  }

  static constexpr std::uint64_t places = 1024;
  std::unique_ptr<State> state;
  Actions actions;
  std::vector<LogWrite> batch;
  std::vector<std::uint64_t> offsets;
};

double nanoseconds(Rig& rig, Kind kind, double seconds) {
  using Clock = std::chrono::steady_clock;
  const auto began = Clock::now();
  std::uint64_t n = 0;
  double took = 0;
  do {
    for (unsigned i = 0; i < 4096; ++i, ++n)
      rig.request(static_cast<Slot>(n % 64), kind, rig.offsets[n * 7919 % Rig::places]);
    took = std::chrono::duration<double>(Clock::now() - began).count();
  } while (took < seconds);
  return took * 1e9 / static_cast<double>(n);
}

}  // namespace

int main(int argc, char** argv) {
  const double seconds = argc > 1 && std::string(argv[1]) == "1" ? 1.0 : 0.3;
  for (const std::uint64_t size :
       {std::uint64_t{1}, std::uint64_t{64}, std::uint64_t{1024}, std::uint64_t{16384}}) {
    Rig rig(size * gib);
    const double write = nanoseconds(rig, Kind::write, seconds);
    const double read = nanoseconds(rig, Kind::read, seconds);
    fmt::print("{:>6} GiB: a write {:.0f} ns, a read {:.0f} ns, both visits\n", size, write, read);
  }
}
