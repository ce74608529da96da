#include <algorithm>
#include <cstring>

#include "tests/sim/say.hpp"
#include "tests/sim/world.hpp"

// The invariants, seen from outside: what the legs hold, what the medium says durably, and what
// the machine believes.
namespace blockloom::sim {

using mirror::leg_bit;

/// A block that a request is about to change, or whose range an op of unknown end holds.
bool World::busy_block(unsigned block) const {
  return std::any_of(clients_.begin(), clients_.end(), [&](const Client& c) {
    return c.busy && c.value != 0 && block >= c.first && block < c.first + c.count;
  });
}

void World::check_answer(const Client& c, const Action& action) {
  const bool write = c.value != 0;
  if (!write) return;
  const bool ok = action.errc == Errc::ok;
  const std::uint64_t region = c.first / blocks_per_region;
  const mirror::RegionView view = state_->region(region);
  for (unsigned i = 0; i < legs(); ++i) {
    const SimLeg& leg = legs_[i];
    if (state_->leg(i).state == mirror::LegState::absent) continue;
    bool may_land = false;
    for (const std::uint32_t index : leg.live) {
      const SimOp& op = ops_[index];
      if (op.life == life_ && op.request == c.number && !op.landed) may_land = true;
    }
    // I2: what may still land is behind STALE, or behind the lock.
    require(!may_land || (view.stale & leg_bit(i)) != 0 || action.keep,
            "I2: an op of unknown end, and neither STALE nor a lock");
    if (!ok || (shadow_members_ & leg_bit(i)) == 0) continue;
    // I3.
    if ((shadow_stale_[i] >> region & 1) != 0) continue;
    if (!leg.session) continue;  // it lost its cache, and the machine does not know yet
    for (unsigned b = c.first; b < c.first + c.count; ++b)
      require(leg.cache[b] == c.value,
              "I3: answered, but a leg has it neither landed nor durably STALE");
  }
}

/// I9: with a bound on every leg, each request has one too; longer if it found its range taken.
void World::check_bound(const Client& c) {
  Time longest = 0;
  for (const mirror::LegConfig& leg : config_.legs) {
    if (leg.timeout == 0) return;
    longest = std::max(longest, leg.timeout);
  }
  // Two waits for the log, and each leg in turn up to its hard limit.
  Time bound = 2 * config_.log_timeout + 2 * legs() * longest + ms;
  if (config_.on_all_failed == mirror::OnAllFailed::queue)
    bound += config_.queue_timeout + 2 * legs() * longest + 2 * config_.log_timeout;
  if (!c.alone && c.kind != mirror::Kind::flush)
    bound += 4 * longest + 2 * config_.log_timeout +
             (config_.on_all_failed == mirror::OnAllFailed::queue ? config_.queue_timeout : 0);
  require(now_ - c.begin <= bound, "I9: a request was not answered within its bound");
}

/// I4, of one region: legs that differ are durably dirty or stale.
void World::check_region(std::uint64_t r) {
  if (shadow_members_ == 0 || (shadow_dirty_ >> r & 1) != 0) return;
  int first = -1;
  for (unsigned i = 0; i < legs(); ++i) {
    if ((shadow_members_ & leg_bit(i)) == 0 || (shadow_stale_[i] >> r & 1) != 0) continue;
    if (first < 0) {
      first = static_cast<int>(i);
      continue;
    }
    const SimLeg& a = legs_[static_cast<unsigned>(first)];
    const SimLeg& b = legs_[i];
    for (unsigned k = 0; k < blocks_per_region; ++k) {
      const unsigned block = static_cast<unsigned>(r) * blocks_per_region + k;
      if (a.cache[block] != b.cache[block])
        say("  block {}: leg {} has {}, leg {} has {}", block, first, a.cache[block], i,
            b.cache[block]);
      require(a.cache[block] == b.cache[block],
              "I4: legs differ, and the log says neither dirty "
              "nor stale");
    }
  }
}

void World::check_regions() {
  for (unsigned r = 0; r < regions_; ++r) {
    check_region(r);
    // I5, durably and in memory.
    LegMask stale = 0;
    LegMask present = 0;
    for (unsigned i = 0; i < legs(); ++i) {
      if ((shadow_stale_[i] >> r & 1) != 0) stale |= leg_bit(i);
      if (state_->leg(i).state != mirror::LegState::absent) present |= leg_bit(i);
    }
    require(shadow_members_ == 0 || (shadow_members_ & ~stale) != 0,
            "I5: the log says that all legs are STALE");
    require((present & ~state_->region(r).stale) != 0, "I5: all legs are STALE");
  }
}

/// Legs that the machine would read from hold the same, but where a request is under way.
void World::check_in_sync(std::uint64_t r) {
  if (!state_ || !serving_) return;
  const mirror::RegionView view = state_->region(r);
  int first = -1;
  for (unsigned i = 0; i < legs(); ++i) {
    if ((view.stale & leg_bit(i)) != 0 || !legs_[i].session ||
        state_->leg(i).state != mirror::LegState::up)
      continue;
    if (first < 0) {
      first = static_cast<int>(i);
      continue;
    }
    for (unsigned k = 0; k < blocks_per_region; ++k) {
      const unsigned block = static_cast<unsigned>(r) * blocks_per_region + k;
      if (legs_[static_cast<unsigned>(first)].cache[block] == legs_[i].cache[block]) continue;
      if (!busy_block(block))
        say("  block {}: leg {} has {}, leg {} has {}", block, first,
            legs_[static_cast<unsigned>(first)].cache[block], i, legs_[i].cache[block]);
      require(busy_block(block), "I4: two legs in sync differ where nothing is written");
    }
  }
}

/// I6: the log just stopped calling this leg STALE.
void World::check_cleared(std::uint64_t r, unsigned i) {
  const SimLeg& leg = legs_[i];
  for (unsigned k = 0; k < blocks_per_region; ++k) {
    const unsigned block = static_cast<unsigned>(r) * blocks_per_region + k;
    require(leg.cache[block] == leg.durable[block] || !leg.copied[block],
            "I6: STALE is cleared before the copy was flushed");
  }
  if (!leg.session) return;
  for (const std::uint32_t index : leg.live) {
    const SimOp& op = ops_[index];
    const bool of_client = op.life == life_ && !op.copy && !op.told;
    require(op.landed || op.kind == mirror::Kind::read || op.kind == mirror::Kind::flush ||
                op.first / blocks_per_region != r || of_client,
            "I6: STALE is cleared while an op of unknown end may land");
  }
}

/// What the medium says now; a page as format and region_log_format.cpp describe it.
void World::shadow_page(std::uint64_t offset, std::span<const std::byte> bytes) {
  constexpr std::uint64_t row = 4 * mirror::log_page_size;
  if (offset / row == 0) {
    shadow_members_ = 0;
    for (unsigned i = 0; i < legs(); ++i)
      if (bytes[91 + i] == std::byte{1}) shadow_members_ |= leg_bit(i);
    return;
  }
  if (offset / row != 1) return;
  std::uint64_t words[1 + mirror::max_legs];
  std::memcpy(words, bytes.data() + 64, sizeof words);
  shadow_dirty_ = words[0];
  for (unsigned i = 0; i < legs(); ++i) {
    const std::uint64_t cleared = shadow_stale_[i] & ~words[1 + i];
    shadow_stale_[i] = words[1 + i];
    for (unsigned r = 0; r < regions_ && cleared != 0; ++r)
      if ((cleared >> r & 1) != 0 && (shadow_members_ & leg_bit(i)) != 0) check_cleared(r, i);
  }
}

/// After a crash, what load() made of the medium counts: also of a commit that nobody heard of.
void World::take_shadow(const mirror::RegionLog& log) {
  shadow_members_ = 0;
  shadow_dirty_ = 0;
  shadow_stale_.fill(0);
  for (unsigned i = 0; i < legs(); ++i)
    if (log.identity().roles[i] == mirror::Role::member) shadow_members_ |= leg_bit(i);
  for (unsigned r = 0; r < regions_; ++r) {
    if (log.dirty(r)) shadow_dirty_ |= std::uint64_t{1} << r;
    for (unsigned i = 0; i < legs(); ++i)
      if ((log.stale(r) & leg_bit(i)) != 0) shadow_stale_[i] |= std::uint64_t{1} << r;
  }
  for (unsigned r = 0; r < regions_; ++r)
    check_region(r);
}

void World::check_end() {
  for (const Client& c : clients_)
    require(!c.busy, "I9: a request was never answered");
  for (unsigned b = 0; b < blocks_; ++b) {
    for (unsigned i = 0; i < legs(); ++i) {
      require(legs_[i].cache[b] == legs_[0].cache[b], "I9: legs differ after healing");
      require(legs_[i].cache[b] == legs_[i].durable[b], "F1: clean, but not flushed");
    }
    require(history_[b].may_hold(legs_[0].cache[b]),
            "I1: after healing a block holds what it "
            "cannot");
  }
  require(shadow_dirty_ == 0, "I9: dirty regions are left");
  for (unsigned i = 0; i < legs(); ++i)
    require(shadow_stale_[i] == 0 || (shadow_members_ & leg_bit(i)) == 0,
            "I9: stale regions are left");
}

}  // namespace blockloom::sim
