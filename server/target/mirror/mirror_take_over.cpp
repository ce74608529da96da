// A new table takes the mirror over: what changes among its legs and in its log.
#include <algorithm>

#include <fmt/format.h>

#include "server/base/log.hpp"
#include "server/leg/uri.hpp"
#include "server/target/mirror/directory.hpp"
#include "server/target/mirror/mirror.hpp"
#include "server/target/mirror/mirror_batch.hpp"

namespace blockloom::mirror {
namespace {

constexpr Duration record_patience = std::chrono::seconds(20);  // for a disk

}  // namespace

/// The next table's line: what it says differently is done before requests come. Legs leave first,
/// so that a line may replace one by another. The machine goes on for it, since a suspended one
/// writes no record (I10), and who the legs are has to be durable before the first request.
Result<void> Mirror::change_to(const Wanted& wanted) {
  if (to_text(wanted.spec) == to_text(spec_) && !reopened(wanted)) return {};
  go_on();
  if (auto r = drop_legs(wanted); !r) return r;
  if (auto r = add_legs(wanted); !r) return r;
  {
    const std::lock_guard lock(mutex_);
    spec_ = wanted.spec;
    state_->configure(config_of(wanted.spec));
    note_modes_locked();
  }
  if (auto r = change_log(wanted); !r) return r;
  visit(Event::tick(now_ns()), true);
  const auto settled = [this] {
    const RegionLog& log = state_->log();
    return log.completed() >= log.newest();
  };
  // Durable, with the new legs as members; then their identities.
  const TimePoint deadline = Clock::now() + record_patience;
  bool written = wait_for(settled, deadline);
  if (written && name_members()) {
    visit(Event::tick(now_ns()), true);
    written = wait_for(settled, deadline);
  }
  if (written) return {};
  return Error{Errc::timed_out, "mirror: the record of the new legs could not be written"};
}

/// Whether the line brings a leg that was opened anew.
bool Mirror::reopened(const Wanted& wanted) const {
  const std::lock_guard lock(mutex_);
  return std::any_of(wanted.legs.begin(), wanted.legs.end(), [&](const WantedLeg& leg) {
    const int place = place_of(leg.spec);
    return leg.leg != nullptr &&
           (place < 0 || (places_[static_cast<unsigned>(place)].leg != leg.leg &&
                          places_[static_cast<unsigned>(place)].next != leg.leg));
  });
}

Result<void> Mirror::drop_legs(const Wanted& wanted) {
  for (unsigned number = 0; number < max_legs; ++number) {
    Place& place = places_[number];
    if (!place.used) continue;
    const bool stays =
        std::any_of(wanted.legs.begin(), wanted.legs.end(),
                    [&](const WantedLeg& leg) { return same_storage(leg.spec, place.spec); });
    if (stays) continue;
    const Event event = Event::remove_leg(now_ns(), number);
    {
      const std::lock_guard lock(mutex_);
      if (auto may = state_->may(event); !may)
        return Error{may.code(), fmt::format("mirror: leg '{}' cannot leave: {}", place.spec.uri,
                                             may.error().message)};
    }
    visit(event, true);
    const auto gone = [&] { return state_->leg(number).state == LegState::absent; };
    if (!wait_for(gone, Clock::now() + record_patience))
      return Error{Errc::timed_out, fmt::format("mirror: leg '{}' does not leave: its last writes "
                                                "are still out",
                                                place.spec.uri)};
    if (place.remote != nullptr) place.remote->release();
    const std::lock_guard lock(mutex_);
    client_->set_leg(number, nullptr, {});
    place.used = place.here = place.lane = place.fenced_once = false;
    place.leg.reset();
    place.next.reset();
    place.remote = nullptr;
    place.link.reset();
  }
  return {};
}

/// A leg with a peer whose URI leads to the same storage in another way (a new password, other
/// times): the next session is the new leg's. Where the others can do without it that is at once,
/// and what it did not flush is copied; else when its session ends by itself.
void Mirror::exchange_leg(unsigned number, const WantedLeg& wanted) {
  bool at_once = false;
  {
    const std::lock_guard lock(mutex_);
    Place& place = places_[number];
    place.spec = wanted.spec;
    place.next = wanted.leg;
    at_once = state_->leg(number).state == LegState::up &&
              static_cast<bool>(state_->may(Event::fail_leg(now_ns(), number)));
  }
  if (at_once) visit(Event::leg_lost(now_ns(), number), true);
}

Result<void> Mirror::add_legs(const Wanted& wanted) {
  for (const WantedLeg& leg : wanted.legs) {
    int number = place_of(leg.spec);
    const bool fresh = number < 0;
    for (unsigned i = 0; fresh && number < 0 && i < max_legs; ++i)
      if (!places_[i].used) number = static_cast<int>(i);
    if (number < 0) return Error{Errc::limit, "mirror: it has no place for another leg"};
    const auto at = static_cast<unsigned>(number);
    if (fresh && leg.leg == nullptr) return Error{Errc::not_found, leg.missing};
    if (!fresh && leg.leg == nullptr && places_[at].spec.uri != leg.spec.uri)
      log_warning(
          fmt::format("mirror: leg '{}' goes on as it is, because its new URI cannot be "
                      "opened: {}",
                      public_uri(places_[at].spec.uri), public_uri(leg.missing)));
    if (!fresh && leg.leg != nullptr && places_[at].remote != nullptr) {
      if (leg.leg != places_[at].leg && leg.leg != places_[at].next) exchange_leg(at, leg);
      continue;
    }
    // One that is there keeps its leg, but for a failed one that was opened anew.
    if (leg.leg == nullptr || (!fresh && places_[at].out > 0)) continue;
    if (auto r = put_leg(at, leg, wanted.spec); !r) return r;
    if (!fresh) continue;
    {
      const std::lock_guard lock(mutex_);
      places_[at].fenced_once = true;  // nobody wrote to it for this mirror
      state_->configure(config_of(wanted.spec));
      if (auto may = state_->may(Event::add_leg(now_ns(), at)); !may) return may;
    }
    visit(Event::add_leg(now_ns(), at), true);
  }
  return {};
}

/// Writes the legs' identities beside their roles; false: nothing had to be written.
bool Mirror::name_members() {
  const std::lock_guard lock(mutex_);
  RegionLog& log = state_->log();
  bool wrote = false;
  for (unsigned i = 0; i < max_legs; ++i) {
    if (!places_[i].used || log.identity().roles[i] != Role::member ||
        log.identity().legs[i] == places_[i].identity)
      continue;
    log.set_role(i, Role::member, places_[i].identity);
    wrote = true;
  }
  return wrote;
}

/// A record that moves is written whole to its new place before the old one is let go.
Result<void> Mirror::change_log(const Wanted& wanted) {
  const bool had = log_store_->durable();
  const bool same =
      had == (wanted.log != nullptr) &&
      (!had || log_store_->leg() == wanted.log || log_store_->leg()->uri() == wanted.log->uri());
  if (same) return {};
  auto store = LogStore::create(wanted.log, Duration::zero());
  if (!store) return store.error();
  if (store.value()->durable()) {
    auto blank = store.value()->blank();
    if (!blank) return blank.error();
    if (!*blank)
      return Error{Errc::exists, fmt::format("mirror: log '{}' is not empty: expected an empty "
                                             "file for a record that moves",
                                             wanted.spec.log_uri)};
  }
  const std::lock_guard lock(mutex_);
  log_store_ = std::move(*store);
  state_->log().rewrite();
  return {};
}

}  // namespace blockloom::mirror
