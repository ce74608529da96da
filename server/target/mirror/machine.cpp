#include "server/target/mirror/machine.hpp"

#include <algorithm>

namespace blockloom::mirror {

#ifdef BLOCKLOOM_RULE_REMOVAL
Rule removed_rule = Rule::none;
#endif

State::Machine::Machine(const Config& config, RegionLog log)
    : config_(config), log_(std::move(log)), pace_(config.resync_rate, config.resync_min_rate) {
  shift_ = static_cast<unsigned>(std::countr_zero(config.region_size));
  regions_.reset(static_cast<Region*>(std::calloc(log_.regions(), sizeof(Region))));
  requests_.resize(config.max_requests + config.copies + 2);
  for (Slot slot = config.max_requests; slot < requests_.size(); ++slot)
    requests_[slot].use = Use::copy;
  scrub_slot_ = config.max_requests + config.copies;
  flush_slot_ = scrub_slot_ + 1;
  requests_[scrub_slot_].use = Use::scrub;
  requests_[flush_slot_].use = Use::flush;
  copies_.resize(config.copies);
  copied_.reserve(64);
  work_.reserve(slots());
  buckets_.resize(std::bit_ceil(requests_.size()));
  legs_.resize(config.legs.size());
  for (unsigned i = 0; i < legs_.size(); ++i) {
    Leg& leg = legs_[i];
    leg.config = config.legs[i];
    if (leg.config.read_timeout == 0) leg.config.read_timeout = leg.config.timeout;
    leg.backoff = config.reopen_min;
    leg.ops.resize(leg_ops());
    for (std::uint32_t op = leg_ops(); op-- > 0;)
      leg.free_ops.push_back(static_cast<std::uint16_t>(op));
    if (leg.config.present) present_ |= leg_bit(i);
  }
  epoch_ = log_.epoch();
  // Two requests in front of it, each up to its hard limit, and their waits for the log.
  Time longest = 0;
  for (const Leg& leg : legs_)
    longest = std::max({longest, leg.config.timeout, leg.config.read_timeout});
  if (longest != 0) {
    block_limit_ = 4 * longest + 2 * config.log_timeout;
    if (config.on_all_failed == OnAllFailed::queue) block_limit_ += config.queue_timeout;
  }
}

void State::Machine::configure(const Config& config) {
  for (unsigned i = 0; i < legs_.size() && i < config.legs.size(); ++i) {
    const bool present = legs_[i].config.present;
    legs_[i].config = config.legs[i];
    legs_[i].config.present = present;
    if (legs_[i].config.read_timeout == 0) legs_[i].config.read_timeout = legs_[i].config.timeout;
  }
  config_.min_acks = config.min_acks;
  config_.read_policy = config.read_policy;
  config_.preferred = config.preferred;
  config_.hedge = config.hedge;
  config_.on_all_failed = config.on_all_failed;
  config_.queue_limit = config.queue_limit;
  config_.queue_timeout = config.queue_timeout;
  config_.log_timeout = config.log_timeout;
  config_.clean_delay = config.clean_delay;
  config_.reopen_min = config.reopen_min;
  config_.reopen_max = config.reopen_max;
  pace_.set_rate(config.resync_rate);
  pace_.set_min_rate(config.resync_min_rate);
}

std::uint64_t State::Machine::region_end(std::uint64_t r) const noexcept {
  return std::min((r + 1) << shift_, config_.size);
}

void State::Machine::note(Notice notice, unsigned leg, Errc errc, std::uint64_t offset,
                          std::uint64_t length, std::uint64_t value) {
  Action& action = act(Action::Type::notice);
  action.notice = notice;
  action.leg = static_cast<std::uint8_t>(leg);
  action.errc = errc;
  action.offset = offset;
  action.length = length;
  action.value = value;
}

void State::Machine::on(const Event& event, Actions& out) {
  out_ = &out;
  timed_ = event.now != 0;
  now_ = std::max(now_, event.now);
  dispatch(event);
  settle();
  out_ = nullptr;
}

void State::Machine::dispatch(const Event& event) {
  switch (event.type) {
    case Event::Type::submit:
      return submit(event);
    case Event::Type::all_ok:
      return all_ok(event.slot, event.length);
    case Event::Type::op_ended:
      return op_ended(event);
    case Event::Type::tick:
      return tick();
    case Event::Type::log_committed:
      return log_committed(event.ok);
    case Event::Type::compared:
      return compared(event.slot, event.mask);
    case Event::Type::cancel:
      return cancel(event.slot);
    case Event::Type::leg_lost:
      if (legs_[event.leg].state == LegState::suspect) return enter_fencing(event.leg);
      return leg_out(event.leg, Why::lost, Errc::io);
    case Event::Type::fence_ended:
      return fence_ended(event.leg, event.fence);
    case Event::Type::opened:
      return opened(event.leg, event.ok);
    case Event::Type::start:
      return start(event.ok);
    case Event::Type::suspend:
      return suspend();
    case Event::Type::resume:
      return resume();
    case Event::Type::stop:
      return stop();
    default:
      return operate(event);
  }
}

void State::Machine::operate(const Event& event) {
  if (!may(event)) return;
  kick_ = true;
  switch (event.type) {
    case Event::Type::pause_resync:
      return pace_.pause();
    case Event::Type::resume_resync:
      return pace_.unpause();
    case Event::Type::set_resync_rate:
      return pace_.set_rate(event.length);
    case Event::Type::start_scrub:
      return start_scrub(event.scrub);
    case Event::Type::stop_scrub:
      return stop_scrub(false);
    default:
      break;
  }
  const unsigned i = event.leg;
  Leg& leg = legs_[i];
  switch (event.type) {
    case Event::Type::fail_leg:
      leg.held = true;
      log_.set_held(i, true);
      if (leg.state == LegState::up) return leg_out(i, Why::person, Errc::cancelled);
      if (leg.state == LegState::suspect) return enter_fencing(i);
      return set_leg_state(i, leg.state);
    case Event::Type::readd_leg:
      leg.held = false;
      log_.set_held(i, false);
      if (leg.state == LegState::down_unfenced) return enter_fencing(i);
      if (leg.state == LegState::down_fenced) leg.retry_at = now_;
      if (leg.state == LegState::down_fenced) return leg_time(i);
      return set_leg_state(i, leg.state);
    case Event::Type::vouch_leg:
      leg.vouched = true;
      return enter_fencing(i);
    case Event::Type::remove_leg:
      return remove(i);
    case Event::Type::add_leg:
      return add(i);
    default:
      return;
  }
}

/// What the event set off, until nothing is left to decide. Then one commit for all its marks.
void State::Machine::settle() {
  while (!work_.empty() || kick_) {
    for (std::size_t i = 0; i < work_.size(); ++i) {
      requests_[work_[i]].queued = false;
      work(work_[i]);
    }
    work_.clear();
    if (kick_) {
      kick_ = false;
      maintain();
    }
  }
  if (log_.pending() && !log_.committing() && may_commit()) {
    log_.begin_commit();
    ++log_commits_;
    act(Action::Type::commit);
  }
}

bool State::Machine::may_commit() const noexcept {
  if (log_failing_ && now_ < log_retry_) return false;
  if (phase_ == Phase::suspended) return stopping_ != Stopping::no;  // I10
  return phase_ != Phase::fresh && phase_ != Phase::stopped;
}

void State::Machine::work(Slot slot) {
  Request& r = requests_[slot];
  if (r.step == Step::blocked) {
    if (r.blockers == 0) begin(slot);
    return;
  }
  if (r.step != Step::active || r.pending != 0) return;
  switch (r.use) {
    case Use::copy:
      return advance_copy(slot);
    case Use::scrub:
      return advance_scrub(slot);
    default:
      break;
  }
  if (r.kind == Kind::flush) return advance_flush(slot);
  if (r.kind == Kind::read) return start_read(slot);
  advance_write(slot);
}

void State::Machine::marked(Region& g, Ticket ticket, bool Region::*pending) noexcept {
  if (settled(g)) g.dirty_pending = g.stale_pending = false;
  if (ticket <= log_.completed()) return;
  g.mark = std::max(g.mark, ticket);
  g.*pending = true;
}

void State::Machine::set_stale(std::uint64_t r, LegMask legs) {
  Region& g = region(r);
  g.stale |= legs;
  if ((g.copying & legs) != 0) drop_copies(r, legs);
  const Ticket ticket = log_.set_stale(r, legs, true);
  marked(g, ticket, &Region::stale_pending);
  stale_ticket_ = std::max(stale_ticket_, ticket);
}

void State::Machine::set_dirty(std::uint64_t r) {
  Region& g = region(r);
  g.dirty = true;
  marked(g, log_.set_dirty(r, true), &Region::dirty_pending);
  if (clean_at_ == never) clean_at_ = now_ + config_.clean_delay;
  arm(clean_at_);
}

void State::Machine::log_committed(bool ok) {
  if (!log_.committing()) return;
  log_.end_commit(ok);
  kick_ = true;
  if (!ok) {
    log_retry_ = now_ + second;
    arm(log_retry_);
    if (!log_failing_) note(Notice::log_failed, 0, Errc::io);
    log_failing_ = true;
    return;
  }
  if (log_failing_) note(Notice::log_recovered, 0);
  log_failing_ = false;
  for (Slot slot = log_waiters_.head(); slot != nil;) {
    Request& r = requests_[slot];
    const Slot next = r.wait_link.next;
    const Region& g = region(r.region);
    const bool ready = r.kind == Kind::flush     ? stale_ticket_ <= log_.completed()
                       : r.step == Step::marking ? dirty_durable(g)
                                                 : stale_durable(g);
    if (ready) {
      const Step step = r.step;
      stop_waiting(slot);
      r.step = Step::active;
      if (step == Step::marking)
        start_write(slot);
      else if (r.kind == Kind::flush)
        advance_flush(slot);
      else if (r.kind == Kind::read)
        finish_read(slot);
      else
        advance_write(slot);
    }
    slot = next;
  }
  go_on_removing();
  send_fences();
  if (choosing_ && stale_ticket_ <= log_.completed()) serve();
}

void State::Machine::tick() {
  deadline_ = never;
  kick_ = true;
  for (unsigned i = 0; i < legs_.size(); ++i) {
    Leg& leg = legs_[i];
    for (unsigned list = 0; list < leg.lists.size(); ++list) {
      while (!leg.lists[list].empty()) {
        const std::uint32_t op = leg.lists[list].head();
        if (leg.ops[op].deadline > now_) {
          arm(leg.ops[op].deadline);
          break;
        }
        op_timeout(i, op, list >= 2);
      }
    }
    leg_time(i);
  }
  while (!hedges_.empty()) {
    const Slot slot = hedges_.head();
    if (requests_[slot].hedge_at > now_) {
      arm(requests_[slot].hedge_at);
      break;
    }
    hedge(slot);
  }
  if (untimed_waiters_) time_waiters();
  // Not in the order of their deadlines: one that waits again keeps its own.
  for (const WaitList* list : {&blocked_, &log_waiters_, &leg_waiters_}) {
    for (Slot slot = list->head(); slot != nil;) {
      const Slot next = requests_[slot].wait_link.next;
      if (requests_[slot].deadline > now_)
        arm(requests_[slot].deadline);
      else
        give_up_waiting(slot, Errc::timed_out);
      slot = next;
    }
  }
  if (log_failing_) arm(std::max(log_retry_, now_ + millisecond));
  if (phase_ == Phase::assembling && assemble_until_ != never) {
    if (now_ >= assemble_until_)
      assemble(true);
    else
      arm(assemble_until_);
  }
}

}  // namespace blockloom::mirror
