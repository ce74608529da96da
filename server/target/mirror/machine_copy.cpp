#include <algorithm>

#include "server/target/mirror/machine.hpp"

// Resync, the only path that marks a region in sync (C5). A region is copied chunk by chunk, each
// under the interval lock (C2); writes that come meanwhile go to the leg as well (H9), so that no
// chunk has to be copied twice. Regions that are copied wait together for one flush of the leg,
// and then for the log (C4).
namespace blockloom::mirror {
namespace {
constexpr std::size_t copied_limit = 64;  // regions that wait for a flush
constexpr std::size_t flush_at = 32;
constexpr Time flush_after = second;
constexpr unsigned regions_a_visit = 1024;  // regions without a source, a visit
}  // namespace

bool State::Machine::copies_idle() const noexcept {
  return std::none_of(copies_.begin(), copies_.end(), [](const Copy& c) { return c.active; });
}

/// The next region that is STALE on a leg that is up, and in sync on another.
bool State::Machine::pick_region(std::uint64_t& found) {
  std::uint64_t r = copy_cursor_;
  bool wrapped = false;
  for (unsigned n = 0; n < regions_a_visit; ++n) {
    r = log_.next_stale(up_, r);
    if (r >= log_.regions()) {
      if (wrapped || copy_stuck_) break;
      wrapped = true;
      r = 0;
      continue;
    }
    const Region& g = region(r);
    const auto sources = static_cast<LegMask>(up_ & ~g.stale & ~barred(g));
    const auto targets = static_cast<LegMask>(up_ & g.stale & ~barred(g));  // C1
    // Not while the record is being told otherwise: it could call an unfinished copy in sync.
    if (sources != 0 && targets != 0 && g.copying == 0 && stale_durable(g)) {
      found = r;
      copy_cursor_ = r + 1;
      return true;
    }
    ++r;
  }
  copy_cursor_ = r < log_.regions() ? r : 0;
  if (r < log_.regions()) arm(now_ + millisecond);
  if (copy_stuck_) {
    copy_stuck_ = false;
    copy_retry_ = now_ + 10 * second;
    arm(copy_retry_);
  }
  return false;
}

void State::Machine::start_copies() {
  if (copy_retry_ != never && now_ < copy_retry_) return arm(copy_retry_);
  copy_retry_ = never;
  for (unsigned i = 0; i < copies_.size(); ++i) {
    Copy& copy = copies_[i];
    const Slot slot = config_.max_requests + i;
    if (copy.active) {
      // Between two chunks, held back by the pace.
      if (requests_[slot].step == Step::free) copy_chunk(slot);
      continue;
    }
    if (pace_.paused() || copied_.size() + copies_.size() > copied_limit) continue;
    if (up_ == 0 || (up_ & (up_ - 1)) == 0) continue;
    if (std::uint64_t r = 0; pick_region(r)) {
      copy.active = true;
      copy.region = r;
      copy.next = r << shift_;
      Region& g = region(r);
      copy.targets = static_cast<LegMask>(up_ & g.stale & ~barred(g));
      g.copying |= copy.targets;
      if (!resyncing_) {
        resyncing_ = true;
        copied_bytes_ = 0;
        note(Notice::resync_started, 0);
      }
      copy_chunk(slot);
    }
  }
  const bool idle = copies_idle();
  if (idle && resyncing_ && copied_.empty() && log_.next_stale(up_, 0) >= log_.regions()) {
    resyncing_ = false;
    note(Notice::resync_finished, 0, Errc::ok, 0, 0, copied_bytes_);
  }
}

void State::Machine::copy_chunk(Slot slot) {
  Copy& copy = copy_of(slot);
  if (copy.targets == 0 || suspending_) return end_copy(slot);
  copy.start_at = pace_.next_start(now_);
  if (copy.start_at > now_) {
    arm(copy.start_at);
    return;
  }
  Request& r = requests_[slot];
  r.region = copy.region;
  r.offset = copy.next;
  r.length = std::min<std::uint64_t>(config_.copy_chunk, region_end(copy.region) - copy.next);
  r.kind = Kind::write;  // for the lock: it writes
  r.flags = 0;
  copy.writing = false;
  copy.began = now_;
  pace_.chunk_started(now_, r.length);
  if (lock(slot)) begin(slot);
}

void State::Machine::copy_granted(Slot slot) {
  Copy& copy = copy_of(slot);
  Request& r = requests_[slot];
  const Region& g = region(copy.region);
  r.pending = r.ok = r.tried = r.locking = 0;
  r.errc = Errc::ok;
  LegMask sources = static_cast<LegMask>(up_ & ~g.stale & ~barred(g));
  for (LegMask rest = sources; rest != 0; rest &= static_cast<LegMask>(rest - 1))
    if (!has_room(first_leg(rest))) sources &= static_cast<LegMask>(~leg_bit(first_leg(rest)));
  if (copy.targets == 0 || sources == 0) {
    copy_retry_ = now_ + 100 * millisecond;
    return end_copy(slot);
  }
  copy.source = choose(sources);
  ++r.serial;
  send(slot, copy.source, Kind::read, false);
}

/// Its read has ended, or all of its writes have.
void State::Machine::advance_copy(Slot slot) {
  Copy& copy = copy_of(slot);
  Request& r = requests_[slot];
  if (!copy.writing) {
    if (r.ok == 0) {
      // The source failed. Without another one the region is left for later.
      const auto others = static_cast<LegMask>(up_ & ~region(copy.region).stale & ~r.tried);
      if (others == 0) {
        copy_stuck_ = true;
        note(Notice::resync_stuck, copy.source, r.errc, r.offset, r.length);
      }
      return end_copy(slot);
    }
    copy.writing = true;
    r.ok = 0;
    ++r.serial;
    for (LegMask rest = copy.targets; rest != 0; rest &= static_cast<LegMask>(rest - 1)) {
      if (has_room(first_leg(rest)))
        send(slot, first_leg(rest), Kind::write, false);
      else
        leg_out(first_leg(rest), Why::timeout, Errc::limit);
    }
    if (r.pending != 0) return;
  }
  stop_copying(copy.region, static_cast<LegMask>(copy.targets & ~r.ok));
  copied_bytes_ += r.length * count(copy.targets);
  pace_.chunk_ended(now_, now_ - copy.began, r.length);
  copy.next += r.length;
  act(Action::Type::answer).slot = slot;
  release(slot);
  if (copy.targets == 0) return end_copy(slot);
  if (copy.next < region_end(copy.region)) return copy_chunk(slot);
  copied_.push_back({copy.region, copy.targets, false, next_flush_, 0, now_});
  copy.active = false;
  kick_ = true;
}

/// C3: a copy's write is as dangerous as any.
void State::Machine::copy_write_failed(unsigned leg, std::uint32_t index, Fail how) {
  const LegMask bit = leg_bit(leg);
  const Slot slot = legs_[leg].ops[index].slot;
  Request& r = requests_[slot];
  const Errc errc = r.errc;
  r.pending &= static_cast<LegMask>(~bit);
  stop_copying(r.region, bit);
  push_work(slot);
  if (how == Fail::error || (how == Fail::time && removed(Rule::c3))) {
    retire(leg, index);
    free_op(leg, index);
    if (how == Fail::time) return;
  } else {
    make_zombie(leg, index, false);
  }
  if (how == Fail::time && removed(Rule::z1)) return;
  leg_out(leg, how == Fail::time ? Why::timeout : how == Fail::lost ? Why::lost : Why::error, errc);
}

/// Ends a copy that did not get through; its region stays STALE.
void State::Machine::end_copy(Slot slot) {
  Copy& copy = copy_of(slot);
  Request& r = requests_[slot];
  if (r.step != Step::free) {
    act(Action::Type::answer).slot = slot;
    release(slot);
  }
  stop_copying(copy.region, copy.targets);
  copy.active = false;
  kick_ = true;
}

/// These legs stay STALE here. If the record was just being told otherwise, it is told back.
void State::Machine::stop_copying(std::uint64_t r, LegMask legs) {
  Region& g = region(r);
  legs &= g.copying;
  if (legs == 0) return;
  if ((g.clearing & legs) != 0) return set_stale(r, legs);
  drop_copies(r, legs);
}

/// Whoever copies this region to these legs, or has done so, does it for nothing: a later copy
/// begins anew, and must not be taken for this one.
void State::Machine::drop_copies(std::uint64_t r, LegMask legs) {
  const auto others = static_cast<LegMask>(~legs);
  Region& g = region(r);
  g.copying &= others;
  g.clearing &= others;
  for (Copy& copy : copies_)
    if (copy.active && copy.region == r) copy.targets &= others;
  for (Copied& copied : copied_)
    if (copied.region == r) copied.legs &= others;
  kick_ = true;
}

void State::Machine::stop_copying_leg(unsigned i) {
  for (const Copy& copy : copies_)
    if (copy.active) stop_copying(copy.region, leg_bit(i));
  for (const Copied& copied : copied_)
    stop_copying(copied.region, leg_bit(i));
}

/// C4: flushed, then durably not STALE, then in use.
void State::Machine::settle_copied() {
  bool waits = false;
  bool in_sync = false;
  for (std::size_t i = 0; i < copied_.size();) {
    Copied& c = copied_[i];
    Region& g = region(c.region);
    bool done = c.legs == 0;
    if (!done && !c.clearing) {
      LegMask unflushed = 0;
      for (LegMask rest = c.legs; rest != 0; rest &= static_cast<LegMask>(rest - 1))
        if (legs_[first_leg(rest)].flushed < c.stamp) unflushed |= leg_bit(first_leg(rest));
      if (unflushed == 0 || removed(Rule::c4)) {
        c.clearing = true;
        g.clearing |= c.legs;
        c.ticket = log_.set_stale(c.region, c.legs, false);
        marked(g, c.ticket, &Region::stale_pending);
      } else if (suspending_) {
        stop_copying(c.region, c.legs);
        done = true;
      } else {
        waits = waits || copied_.size() >= flush_at || copies_idle() || pace_.paused() ||
                now_ - c.since >= flush_after;
        if (now_ < c.since + flush_after) arm(c.since + flush_after);
      }
    }
    if (!done && c.clearing && c.ticket <= log_.completed()) {
      const LegMask now_in_sync = c.legs;
      g.stale &= static_cast<LegMask>(~now_in_sync);
      g.copying &= static_cast<LegMask>(~now_in_sync);
      g.clearing &= static_cast<LegMask>(~now_in_sync);
      leg_synced(now_in_sync);
      done = in_sync = true;
    }
    if (done) {
      copied_[i] = copied_.back();
      copied_.pop_back();
      kick_ = true;
    } else {
      ++i;
    }
  }
  if (waits && requests_[flush_slot_].step == Step::free) flush_wanted_ = true;
  if (in_sync) wake_leg_waiters();  // those that min_acks held back
}

void State::Machine::leg_synced(LegMask legs) {
  for (LegMask rest = legs; rest != 0; rest &= static_cast<LegMask>(rest - 1))
    if (log_.stale_count(first_leg(rest)) == 0) note(Notice::leg_in_sync, first_leg(rest));
}

}  // namespace blockloom::mirror
