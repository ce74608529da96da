#include <algorithm>
#include <limits>
#include <mutex>

#include <fmt/format.h>

#include "server/leg/delayed_ios.hpp"
#include "server/target/table_line.hpp"
#include "server/target/types.hpp"

namespace blockloom {
namespace {

// delay LEG OFFSET DELAY [WRITE_LEG WRITE_OFFSET WRITE_DELAY [FLUSH_LEG FLUSH_OFFSET FLUSH_DELAY]]
//
//   Holds every request back for DELAY milliseconds, then sends it on to LEG. With six words the
//   second three are for writes (also trim and zero) and flushes, with nine the third three are
//   for flushes. What waits is sent on at once when the device is suspended.
//   Status: READS WRITES FLUSHES, those that wait now.
constexpr std::string_view delay_grammar =
    "LEG OFFSET DELAY, once, or again for writes, or again for writes and for flushes";

enum Kind : std::size_t { reads, writes, flushes };
static_assert(DelayedIos::kinds > flushes);

Kind kind_of(const Io& io) noexcept {
  if (io.op == Op::flush) return flushes;
  return io.modifies() ? writes : reads;
}

/// Where the requests of one kind go, and how late.
struct Route {
  std::shared_ptr<Leg> leg;
  Sectors offset;
  std::uint64_t delay_ms = 0;
};

class DelayTarget final : public Target {
 public:
  /// One route for each three words of the table line.
  explicit DelayTarget(std::vector<Route> routes)
      : routes_(std::move(routes)), delayed_("delay-target", send_on) {
    for (const Route& route : routes_)
      legs_.push_back(route.leg);
  }

  std::string_view type() const noexcept override { return "delay"; }
  std::span<const std::shared_ptr<Leg>> legs() const noexcept override { return legs_; }
  bool maps_flush() const noexcept override { return true; }
  bool inline_only() const noexcept override { return false; }

  Map map(Io& io) noexcept override {
    const Kind kind = kind_of(io);
    const Route& route = routes_[std::min<std::size_t>(kind, routes_.size() - 1)];
    io.leg = route.leg.get();
    if (kind != flushes) io.offset += to_bytes(route.offset);
    if (route.delay_ms == 0) return Map::remapped;
    std::lock_guard lock(mutex_);
    if (!may_delay_) return Map::remapped;
    if (delayed_.add(io, std::chrono::milliseconds(route.delay_ms), kind)) return Map::pending;
    io.status = Errc::no_memory;
    return Map::done;
  }

  // What waits goes on at once, and nothing waits any more until the device resumes.
  void presuspend() noexcept override {
    for (Io* io : stop_delaying())
      send_on(*io);
  }
  void presuspend_undo() noexcept override { start_delaying(); }
  void resume() noexcept override { start_delaying(); }

  void release_held(Errc status) noexcept override {
    for (Io* io : stop_delaying()) {
      io->status = status;
      io->complete(*io);
    }
  }
  std::uint64_t held() const noexcept override { return delayed_.count(); }

  std::string status() const override {
    return fmt::format("{} {} {}", delayed_.count(reads), delayed_.count(writes),
                       delayed_.count(flushes));
  }

  std::string table() const override {
    std::string text;
    for (const Route& route : routes_)
      text += fmt::format("{}{} {} {}", text.empty() ? "" : " ", escape_word(route.leg->uri()),
                          route.offset.value, route.delay_ms);
    return text;
  }

 private:
  static void send_on(Io& io) noexcept {
    if (io.leg->submit(io) == Submit::done) io.complete(io);
  }

  std::vector<Io*> stop_delaying() noexcept {
    std::lock_guard lock(mutex_);
    may_delay_ = false;
    return delayed_.take_all();
  }
  void start_delaying() noexcept {
    std::lock_guard lock(mutex_);
    may_delay_ = true;
  }

  const std::vector<Route> routes_;
  std::vector<std::shared_ptr<Leg>> legs_;

  std::mutex mutex_;  // protects may_delay_, together with what is added to delayed_
  bool may_delay_ = true;
  DelayedIos delayed_;
};

Result<Route> parse_route(const TargetArgs& args, std::size_t first) {
  auto offset = parse_sectors(args.words[first + 1], "delay: offset");
  if (!offset) return offset.error();
  auto delay = parse_number(args.words[first + 2], "delay: milliseconds",
                            std::numeric_limits<std::uint32_t>::max());
  if (!delay) return delay.error();
  auto leg = args.legs.open(args.words[first], *offset, args.length);
  if (!leg) return leg.error();
  return Route{std::move(*leg), *offset, *delay};
}

}  // namespace

Result<std::unique_ptr<Target>> create_delay_target(const TargetArgs& args) {
  const std::size_t count = args.words.size();
  if (count != 3 && count != 6 && count != 9) return wrong_count("delay", count, delay_grammar);
  std::vector<Route> routes;
  for (std::size_t first = 0; first < count; first += 3) {
    auto route = parse_route(args, first);
    if (!route) return route.error();
    routes.push_back(std::move(*route));
  }
  return std::unique_ptr<Target>(new DelayTarget(std::move(routes)));
}

}  // namespace blockloom
