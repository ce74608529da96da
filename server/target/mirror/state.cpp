#include "server/target/mirror/state.hpp"

#include <algorithm>

#include <fmt/format.h>

#include "server/target/mirror/machine.hpp"

// What State shows to the target around it.
namespace blockloom::mirror {
namespace {

Error bad(std::string why) {
  return {Errc::invalid, std::move(why)};
}

Result<void> check_config(const Config& config, const RegionLog& log) {
  const LogIdentity& identity = log.identity();
  if (config.legs.empty() || config.legs.size() > max_legs)
    return bad(
        fmt::format("a mirror with {} legs: expected 1 to {}", config.legs.size(), max_legs));
  if (config.size != identity.size || config.region_size != identity.region_size)
    return bad(fmt::format("the mirror has {} bytes in regions of {}, its log is of {} in {}",
                           config.size, config.region_size, identity.size, identity.region_size));
  if (config.max_requests == 0 || config.max_requests > 20'000)
    return bad(fmt::format("{} requests at a time: expected 1 to 20000", config.max_requests));
  if (config.copies == 0 || config.copies > 8)
    return bad(fmt::format("{} copies at a time: expected 1 to 8", config.copies));
  if (config.copy_chunk < 512 || config.copy_chunk % 512 != 0)
    return bad(
        fmt::format("a copy chunk of {} bytes: expected a multiple of 512", config.copy_chunk));
  if (config.min_acks == 0 || config.min_acks > config.legs.size())
    return bad(fmt::format("min_acks {}: expected 1 to {}, the number of legs", config.min_acks,
                           config.legs.size()));
  if (config.preferred >= config.legs.size())
    return bad(fmt::format("preferred leg {}: expected 0 to {}", config.preferred,
                           config.legs.size() - 1));
  bool any = false;
  for (unsigned i = 0; i < max_legs; ++i) {
    const bool present = i < config.legs.size() && config.legs[i].present;
    any = any || present;
    if (present != (identity.roles[i] == Role::member))
      return bad(fmt::format("leg {} is {}, but its log says that it is {}", i,
                             present ? "there" : "not there", present ? "not there" : "there"));
  }
  if (!any) return bad("a mirror without a leg");
  return {};
}

}  // namespace

Result<std::unique_ptr<State>> State::create(const Config& config, RegionLog log) {
  if (Result<void> ok = check_config(config, log); !ok) return ok.error();
  auto machine = std::make_unique<Machine>(config, std::move(log));
  if (!machine->whole())
    return Error{Errc::no_memory, fmt::format("no memory for the state of {} regions; take a "
                                              "larger region size",
                                              config.size / config.region_size)};
  return std::unique_ptr<State>(new State(std::move(machine)));
}

State::State(std::unique_ptr<Machine> machine) : machine_(std::move(machine)) {}
State::~State() = default;

void State::on(const Event& event, Actions& out) {
  machine_->on(event, out);
}
void State::configure(const Config& config) {
  machine_->configure(config);
}
Time State::next_deadline() const noexcept {
  return machine_->next_deadline();
}
std::uint32_t State::slots() const noexcept {
  return machine_->slots();
}
std::uint32_t State::leg_ops() const noexcept {
  return machine_->leg_ops();
}
RegionLog& State::log() noexcept {
  return machine_->log();
}
LegView State::leg(unsigned leg) const noexcept {
  return machine_->leg_view(leg);
}
unsigned State::legs() const noexcept {
  return machine_->legs();
}
MirrorView State::view(Time now) const noexcept {
  return machine_->view(now);
}
RegionView State::region(std::uint64_t region) const noexcept {
  return machine_->region_view(region);
}
std::span<const Mismatch> State::mismatches() const noexcept {
  return machine_->mismatches();
}
Result<void> State::may(const Event& event) const {
  return machine_->may(event);
}
const std::string& State::refusal() const noexcept {
  return machine_->refusal();
}

LegView State::Machine::leg_view(unsigned i) const noexcept {
  const Leg& leg = legs_[i];
  LegView v;
  v.state = leg.state;
  v.held = leg.held;
  v.last_error = leg.last_error;
  v.epoch = leg.epoch;
  v.stale_regions = (present_ & leg_bit(i)) != 0 ? log_.stale_count(i) : 0;
  v.outstanding = leg.outstanding;
  v.zombies = leg.zombies;
  v.zombie_bytes = leg.zombie_bytes;
  v.unflushed_only_here = leg.kept_unflushed && leg.state != LegState::up;
  v.errors = leg.errors;
  v.timeouts = leg.timeouts;
  v.fences = leg.fences;
  v.retry_at = leg.retry_at;
  return v;
}

MirrorView State::Machine::view(Time now) const noexcept {
  MirrorView v;
  v.phase = phase_;
  v.epoch = epoch_;
  v.regions = log_.regions();
  v.region_size = config_.region_size;
  v.dirty_regions = log_.dirty_count();
  v.in_sync_regions = v.regions - log_.stale_on_any(present_);
  v.in_flight = in_flight_;
  v.waiting_for_leg = waiting_;
  for (Slot slot = leg_waiters_.head(); slot != nil; slot = requests_[slot].wait_link.next) {
    const Request& r = requests_[slot];
    if (r.kind == Kind::flush) ++v.waiting_flushes;
    if (v.waiting_error == Errc::ok && r.errc != Errc::ok) {
      v.waiting_error = r.errc;
      v.waiting_offset = r.offset;
    }
    if (r.deadline != 0) v.waiting_until = std::min(v.waiting_until, r.deadline);
  }
  v.degraded_writes = degraded_writes_;
  v.hedged_reads = hedged_reads_;
  v.retried_reads = retried_reads_;
  v.log_commits = log_commits_;
  v.log_failing = log_failing_;
  std::uint64_t left = 0;
  for (unsigned i = 0; i < legs_.size(); ++i)
    if ((up_ & leg_bit(i)) != 0) left += log_.stale_count(i) * config_.region_size;
  v.resync = progress_of(pace_, left, copied_bytes_, resyncing_, now);
  v.scrubbing = scrubbing_;
  v.scrub_next = scrub_at_;
  v.scrub_mismatches = scrub_found_;
  return v;
}

RegionView State::Machine::region_view(std::uint64_t r) const noexcept {
  const Region& g = region(r);
  return {g.dirty, settled(g), g.stale, g.zombies, g.copying, g.users};
}

Result<void> State::Machine::may(const Event& event) const {
  using Type = Event::Type;
  if (event.type < Type::fail_leg || event.type > Type::vouch_leg) {
    if (event.type == Type::start_scrub && scrubbing_)
      return Error{Errc::busy, "a scrub is running"};
    if (event.type == Type::start_scrub && phase_ != Phase::serving)
      return Error{Errc::busy, "the mirror does not serve now"};
    return {};
  }
  const unsigned i = event.leg;
  if (i >= legs_.size())
    return Error{Errc::not_found, fmt::format("no leg {}: expected 0 to {}", i, legs_.size() - 1)};
  const Leg& leg = legs_[i];
  if (event.type == Type::add_leg) {
    if (leg.state != LegState::absent || (present_ & leg_bit(i)) != 0)
      return Error{Errc::exists, fmt::format("place {} of the mirror has a leg", i)};
    if (phase_ != Phase::serving) return Error{Errc::busy, "the mirror does not serve now"};
    return {};
  }
  if ((present_ & leg_bit(i)) == 0 || leg.removing)
    return Error{Errc::not_found, fmt::format("place {} of the mirror has no leg", i)};
  if (event.type == Type::vouch_leg && leg.state != LegState::down_unfenced)
    return Error{Errc::invalid, fmt::format("leg {} is {}: only a leg that is down_unfenced needs "
                                            "a word",
                                            i, to_string(leg.state))};
  if (event.type == Type::readd_leg && leg.state == LegState::up)
    return Error{Errc::exists, fmt::format("leg {} is up", i)};
  if (event.type != Type::remove_leg && event.type != Type::fail_leg) return {};
  // I5: the others must hold everything; and for `fail`, be able to give it.
  const auto rest =
      static_cast<LegMask>((event.type == Type::fail_leg ? up_ : present_) & ~leg_bit(i));
  if (rest == 0) return Error{Errc::busy, fmt::format("leg {} is the last one", i)};
  // The marks as they are, and those that the record is just losing.
  for (const Copied& copied : copied_)
    if ((rest & ~region(copied.region).stale) == 0)
      return Error{Errc::busy, fmt::format("region {} is being copied from leg {} just now; wait "
                                           "until the others are in sync",
                                           copied.region, i)};
  for (std::uint64_t r = log_.next_stale(rest, 0); r < log_.regions();
       r = log_.next_stale(rest, r + 1)) {
    if ((rest & ~region(r).stale) == 0)
      return Error{Errc::busy, fmt::format("leg {} is the only one that holds region {} (at byte "
                                           "{}); wait until the others are in sync",
                                           i, r, r << shift_)};
  }
  return {};
}

std::string_view to_string(LegState state) noexcept {
  switch (state) {
    case LegState::absent:
      return "absent";
    case LegState::up:
      return "up";
    case LegState::suspect:
      return "suspect";
    case LegState::fencing:
      return "fencing";
    case LegState::down_fenced:
      return "down_fenced";
    case LegState::opening:
      return "opening";
    case LegState::down_unfenced:
      return "down_unfenced";
  }
  return "unknown";
}

std::string_view to_string(Notice notice) noexcept {
  switch (notice) {
    case Notice::leg_state:
      return "leg_state";
    case Notice::leg_in_sync:
      return "leg_in_sync";
    case Notice::leg_slow:
      return "leg_slow";
    case Notice::leg_error:
      return "leg_error";
    case Notice::leg_needed:
      return "leg_needed";
    case Notice::all_failed:
      return "all_failed";
    case Notice::hard_limit:
      return "hard_limit";
    case Notice::resync_started:
      return "resync_started";
    case Notice::resync_finished:
      return "resync_finished";
    case Notice::resync_stuck:
      return "resync_stuck";
    case Notice::scrub_mismatch:
      return "scrub_mismatch";
    case Notice::scrub_finished:
      return "scrub_finished";
    case Notice::log_failed:
      return "log_failed";
    case Notice::log_recovered:
      return "log_recovered";
  }
  return "unknown";
}

}  // namespace blockloom::mirror
