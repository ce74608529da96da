#include <algorithm>

#include "server/target/mirror/machine.hpp"

// Scrub: reads every leg that is in sync, chunk by chunk under the interval lock, and has them
// compared. `repair` makes the differing legs STALE; the resync does the rest (C5).
namespace blockloom::mirror {
namespace {
constexpr std::size_t mismatch_limit = 1000;
constexpr unsigned scrubbed_a_visit = 1024;  // regions a visit
}  // namespace

void State::Machine::start_scrub(Scrub how) {
  scrubbing_ = true;
  scrub_how_ = how;
  scrub_at_ = scrub_found_ = 0;
  mismatches_.clear();
  mismatches_.reserve(mismatch_limit);
}

void State::Machine::stop_scrub(bool finished) {
  if (!scrubbing_) return;
  scrubbing_ = false;
  note(Notice::scrub_finished, 0, finished ? Errc::ok : Errc::cancelled, scrub_at_, 0,
       scrub_found_);
}

void State::Machine::scrub_next() {
  Request& r = requests_[scrub_slot_];
  if (!scrubbing_ || r.step != Step::free) return;
  if (const Time when = pace_.next_start(now_); when > now_) return arm(when);
  for (unsigned n = 0; n < scrubbed_a_visit; ++n) {
    if (scrub_at_ >= config_.size) return stop_scrub(true);
    const std::uint64_t region_number = scrub_at_ >> shift_;
    const Region& g = region(region_number);
    if (count(static_cast<LegMask>(up_ & ~g.stale & ~barred(g))) < 2) {
      scrub_at_ = region_end(region_number);
      continue;
    }
    r.kind = Kind::read;
    r.flags = 0;
    r.region = region_number;
    r.offset = scrub_at_;
    r.length = std::min<std::uint64_t>(config_.copy_chunk, region_end(region_number) - scrub_at_);
    scrub_began_ = now_;
    pace_.chunk_started(now_, r.length);
    if (lock(scrub_slot_)) begin(scrub_slot_);
    return;
  }
  arm(now_ + millisecond);
}

void State::Machine::scrub_granted(Slot slot) {
  Request& r = requests_[slot];
  const Region& g = region(r.region);
  r.pending = r.ok = r.tried = r.locking = 0;
  r.errc = Errc::ok;
  ++r.serial;
  scrub_legs_ = static_cast<LegMask>(up_ & ~g.stale & ~barred(g));
  for (LegMask rest = scrub_legs_; rest != 0; rest &= static_cast<LegMask>(rest - 1))
    if (has_room(first_leg(rest))) send(slot, first_leg(rest), Kind::read, true);
  if (r.pending == 0) end_scrub_chunk(slot);
}

void State::Machine::advance_scrub(Slot slot) {
  Request& r = requests_[slot];
  const auto legs = static_cast<LegMask>(r.ok & ~region(r.region).stale);
  if (legs != scrub_legs_ || count(legs) < 2) return end_scrub_chunk(slot);
  r.step = Step::settling;
  Action& action = act(Action::Type::compare);
  action.slot = slot;
  action.mask = legs;
  action.offset = r.offset;
  action.length = r.length;
}

void State::Machine::compared(Slot slot, LegMask differ) {
  if (slot != scrub_slot_ || requests_[slot].step != Step::settling) return;
  const Request& r = requests_[slot];
  differ &= scrub_legs_;
  if (differ != 0) {
    ++scrub_found_;
    if (mismatches_.size() < mismatch_limit) mismatches_.push_back({r.offset, r.length, differ});
    note(Notice::scrub_mismatch, first_leg(differ), Errc::ok, r.offset, r.length, differ);
    // The lowest leg compared is not in `differ`: one stays in sync (I5).
    const LegMask first = leg_bit(first_leg(scrub_legs_));
    differ &= static_cast<LegMask>(~first);
    if (scrub_how_ == Scrub::repair && (first & ~region(r.region).stale) != 0 && differ != 0)
      set_stale(r.region, differ);
  }
  pace_.chunk_ended(now_, now_ - scrub_began_, r.length);
  end_scrub_chunk(slot);
}

void State::Machine::end_scrub_chunk(Slot slot) {
  Request& r = requests_[slot];
  scrub_at_ = r.offset + r.length;
  act(Action::Type::answer).slot = slot;
  release(slot);
  kick_ = true;
}

}  // namespace blockloom::mirror
