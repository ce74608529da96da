#include <algorithm>
#include <cstring>

#include "tests/sim/say.hpp"
#include "tests/sim/world.hpp"

// The engine: what the mirror target does around the state machine, played under virtual time.
namespace blockloom::sim {
namespace {

class Medium : public mirror::LogSource {
 public:
  explicit Medium(const std::vector<std::byte>& bytes) : bytes_(bytes) {}
  Result<void> read(std::uint64_t offset, std::span<std::byte> out) override {
    if (offset + out.size() > bytes_.size()) return Error{Errc::io, "past the end"};
    std::memcpy(out.data(), bytes_.data() + offset, out.size());
    return {};
  }

 private:
  const std::vector<std::byte>& bytes_;
};

}  // namespace

void World::boot(bool first) {
  ++life_;
  say("-- the engine starts, life {}", life_);
  Result<mirror::RegionLog> log = Error{};
  if (first) {
    const bool sync = random_.percent(20);
    log = mirror::RegionLog::create(identity_, sync);
    // Legs that are not equal at first are copied from the first.
    if (sync)
      for (unsigned i = 1; i < legs(); ++i)
        for (unsigned b = 0; b < blocks_; ++b)
          legs_[i].cache[b] = 1'000'000 + i;
    for (SimLeg& leg : legs_)
      leg.durable = leg.cache;
  } else {
    Medium medium(medium_);
    log = mirror::RegionLog::load(medium, identity_);
    // A record that was being made is there, or is made again.
    log_written_ = log_written_ || log;
    if (!log && !log_written_) log = mirror::RegionLog::create(identity_, !legs_equal_);
    require(static_cast<bool>(log), "the log cannot be read after a crash");
    if (log_written_) take_shadow(*log);
  }
  if (first) legs_equal_ = log->stale_on_any(0x1ff) == 0;
  for (SimLeg& leg : legs_) {
    leg.session = false;
    leg.vouched = healing_ || random_.percent(70);
  }
  for (unsigned i = 0; i < legs(); ++i)
    config_.legs[i].present = log->identity().roles[i] == mirror::Role::member;
  Result<std::unique_ptr<mirror::State>> state = mirror::State::create(config_, std::move(*log));
  require(static_cast<bool>(state), "the state machine cannot be made");
  state_ = std::move(*state);
  buffers_.assign(state_->slots() - config_.max_requests, {});
  op_at_.assign(legs(), std::vector<std::uint32_t>(state_->leg_ops(), ~0U));
  for (unsigned i = 0; i < legs(); ++i)
    read_values_[i].resize(state_->leg_ops());
  tick_at_ = ~Time{0};
  feed(Event::start(now_));
}

void World::crash() {
  say("-- the engine crashes");
  ++verdict_.crashes;
  ++life_;
  serving_ = suspending_ = quiet_ = false;
  crash_after_ = -1;
  state_.reset();
  for (Client& c : clients_) {
    if (c.busy && !c.kept && c.value != 0)
      for (unsigned b = c.first; b < c.first + c.count; ++b)
        history_[b].write_ends(c.value, now_, false);
    c = Client{};
  }
  // A leg that lost its cache just before may be the source now: what was not flushed may go,
  // whether or not it was seen meanwhile (the known limit).
  if (power_lost_)
    for (unsigned b = 0; b < blocks_; ++b)
      history_[b].lossy(now_);
  // Each write of the running commit is on the medium whole, in part, or not at all.
  for (const Pending& w : writes_) {
    std::byte* to = medium_.data() + w.offset;
    switch (random_.below(4)) {
      case 0:
        break;
      case 1:
        std::memcpy(to, w.bytes.data(), w.bytes.size());
        break;
      case 2:
        for (std::size_t sector = 0; sector < w.bytes.size(); sector += 512)
          if (random_.percent(50)) std::memcpy(to + sector, w.bytes.data() + sector, 512);
        break;
      default:
        std::memcpy(to, w.bytes.data(), 512 * random_.below(8));
        break;
    }
  }
  writes_.clear();
  batch_sends_.clear();
  inline_done_.clear();
  for (SimLeg& leg : legs_) {
    leg.session = false;
    std::erase_if(leg.live, [&](std::uint32_t op) { return ops_[op].landed; });
  }
  at(soon(50 * ms), Kind::boot);
}

/// One visit to the machine, and its actions. The engine may crash between any two of them.
void World::feed(Event event) {
  if (!state_) return;
  // Where nothing is bounded the target reads no clock for requests.
  if (untimed_ && (event.type == Event::Type::submit || event.type == Event::Type::all_ok ||
                   event.type == Event::Type::op_ended))
    event.now = 0;
  const std::uint32_t life = life_;
  mirror::Actions actions;
  std::swap(actions, actions_);
  actions.clear();
  state_->on(event, actions);
  ++verdict_.events;
  for (const Action& action : actions) {
    if (crash_after_ >= 0 && crash_after_-- == 0) crash();
    if (life != life_) break;
    carry_out(action);
    if (life != life_) break;
  }
  std::swap(actions, actions_);
  if (life != life_) return;
  inline_batch();
  if (const Time due = state_->next_deadline(); due < tick_at_) {
    tick_at_ = std::max(due, now_ + 1);
    at(tick_at_, Kind::tick);
  }
}

void World::carry_out(const Action& action) {
  using Type = Action::Type;
  switch (action.type) {
    case Type::send:
      return send(action);
    case Type::cancel:
      return;  // nothing here can give up what it was sent
    case Type::answer:
      if (action.slot < config_.max_requests) answered(action);
      return;
    case Type::free_slot:
      say("  slot {} is free", action.slot);
      require(clients_[action.slot].kept, "I8: a slot is freed that was not kept");
      clients_[action.slot] = Client{};
      return;
    case Type::commit:
      return commit();
    case Type::fence:
      return start_fence(action);
    case Type::open:
      return start_open(action);
    case Type::close:
      // Another disk comes into its place.
      say("  close leg {}", action.leg);
      settle_leg(action.leg, true);
      legs_[action.leg].session = false;
      for (unsigned b = 0; b < blocks_; ++b)
        legs_[action.leg].cache[b] = 2'000'000 + action.leg;
      legs_[action.leg].durable = legs_[action.leg].cache;
      return;
    case Type::compare:
      return compare(action);
    case Type::notice:
      return noticed(action);
    case Type::started:
      say("  started: {}", action.errc == Errc::ok ? "ok" : state_->refusal());
      serving_ = action.errc == Errc::ok;
      if (!serving_) at(now_ + 200 * ms, Kind::start_again);
      if (serving_)
        for (unsigned r = 0; r < regions_; ++r)
          check_in_sync(r);
      return;
    case Type::quiesced:
      say("  quiesced");
      require(!requests_out() && writes_.empty(), "I10: quiesced with something under way");
      for (const SimLeg& leg : legs_)
        for (const std::uint32_t op : leg.live)
          require(ops_[op].told || ops_[op].life != life_ || !ops_[op].copy ||
                      ops_[op].kind == mirror::Kind::read || leg_out(ops_[op].leg),
                  "I10: quiesced with a copy under way");
      quiet_ = !finishing_;
      if (finishing_)
        feed(Event::stop(now_));
      else
        at(soon(50 * ms), Kind::resume);
      return;
    case Type::stopped:
      stopped_ = true;
      return;
  }
}

bool World::leg_out(unsigned leg) const {
  return state_->leg(leg).state != mirror::LegState::up;
}

bool World::requests_out() const {
  return std::any_of(clients_.begin(), clients_.end(),
                     [](const Client& c) { return c.busy && !c.kept; });
}

void World::noticed(const Action& action) {
  say("  notice {} leg {} at {} value {}", mirror::to_string(action.notice), action.leg,
      action.offset, action.value);
  if (action.notice == mirror::Notice::resync_finished) ++verdict_.copies;
}

void World::answered(const Action& action) {
  Client& c = clients_[action.slot];
  say("  answer slot {} request {}: {}{}", action.slot, c.number, to_string(action.errc),
      action.keep ? ", keeps its range" : "");
  require(c.busy && !c.kept, "I8: answered twice");
  ++verdict_.requests;
  const bool ok = action.errc == Errc::ok;
  check_answer(c, action);
  check_bound(c);
  if (c.kind == mirror::Kind::flush) {
    if (ok)
      for (unsigned b = 0; b < blocks_; ++b)
        history_[b].flushed(c.begin);
  } else if (c.kind == mirror::Kind::read) {
    if (ok) {
      const auto& values = read_values_[action.op.leg][action.op.index];
      for (unsigned i = 0; i < c.count; ++i) {
        say("    block {} is {}", c.first + i, values[i]);
        require(history_[c.first + i].read_ends(values[i], c.begin, now_),
                "I1: a read returned what the block cannot hold");
      }
    }
  } else {
    for (unsigned b = c.first; b < c.first + c.count; ++b)
      history_[b].write_ends(c.value, now_, ok);
  }
  // What applications do with a failed write: they look. And a crash likes such moments.
  if (!ok && c.value != 0 && !healing_ && crashes_allowed_ && random_.percent(25)) {
    look_at_ = c.first;
    at(soon(2 * ms), Kind::look);
    if (random_.percent(40)) at(soon(30 * ms), Kind::crash);
  }
  const std::uint64_t region = c.first / blocks_per_region;
  const bool wrote = c.value != 0;
  if (action.keep)
    c.kept = true;
  else
    c = Client{};
  if (wrote) check_in_sync(region);
}

void World::commit() {
  require(writes_.empty(), "a commit begins while another one runs");
  while (state_->log().next_batch(batch_)) {
    for (const mirror::LogWrite& w : batch_) {
      Pending& p = writes_.emplace_back();
      p.offset = w.offset;
      std::memcpy(p.bytes.data(), w.bytes.data(), w.bytes.size());
    }
  }
  commit_fails_ = random_.percent(log_error_percent_);
  at(soon(log_latency_), Kind::log_done);
}

void World::log_done() {
  say("  the log's commit {}", commit_fails_ ? "fails" : "is durable");
  for (const Pending& w : writes_) {
    if (commit_fails_ && random_.percent(50)) continue;
    std::memcpy(medium_.data() + w.offset, w.bytes.data(), w.bytes.size());
  }
  if (!commit_fails_) {
    for (const Pending& w : writes_)
      shadow_page(w.offset, w.bytes);
    log_written_ = true;
  }
  writes_.clear();
  check_regions();
  feed(Event::log_committed(now_, !commit_fails_));
}

/// After an orderly end the record says so, and that nothing has to be copied.
void World::check_closed() {
  Medium medium(medium_);
  Result<mirror::RegionLog> log = mirror::RegionLog::load(medium, identity_);
  require(log && log->closed() && log->dirty_count() == 0 && log->stale_on_any(0x1ff) == 0,
          "B2: after an orderly end the record is not closed and clean");
}

void World::compare(const Action& action) {
  mirror::LegMask differ = 0;
  const unsigned base = static_cast<unsigned>(std::countr_zero(action.mask));
  const auto blocks = static_cast<unsigned>(action.length / block_size);
  for (unsigned i = base + 1; i < legs(); ++i)
    if ((action.mask & mirror::leg_bit(i)) != 0 &&
        !std::equal(scrub_values_[i].begin(), scrub_values_[i].begin() + blocks,
                    scrub_values_[base].begin()))
      differ |= mirror::leg_bit(i);
  require(differ == 0, "I4: a scrub found legs in sync that differ");
  at(soon(ms), Kind::compared, differ);
}

}  // namespace blockloom::sim
