// From a table line and what the record says to a mirror that serves.
#include <algorithm>
#include <random>

#include <fmt/format.h>

#include "server/base/fork_point.hpp"
#include "server/base/log.hpp"
#include "server/leg/storage_name.hpp"
#include "server/target/mirror/mirror_batch.hpp"

namespace blockloom::mirror {
namespace {

constexpr std::uint32_t most_requests = 512;
Uuid random_uuid() {
  std::random_device source;
  Uuid uuid;
  for (std::uint8_t& byte : uuid)
    byte = static_cast<std::uint8_t>(source());
  uuid[6] = static_cast<std::uint8_t>((uuid[6] & 0x0f) | 0x40);  // RFC 4122, version 4
  uuid[8] = static_cast<std::uint8_t>((uuid[8] & 0x3f) | 0x80);
  return uuid;
}

std::uint64_t first_epoch() {
  const auto now = std::chrono::system_clock::now().time_since_epoch();
  const auto ms = std::chrono::duration_cast<std::chrono::milliseconds>(now).count();
  return static_cast<std::uint64_t>(std::max<std::int64_t>(ms, 0));
}

Time ms(std::uint64_t value) {
  return value * millisecond;
}

std::uint64_t fnv(std::string_view text, std::uint64_t hash) {
  for (const char c : text)
    hash = (hash ^ static_cast<std::uint8_t>(c)) * 0x100000001b3ULL;
  return hash;
}

}  // namespace

Uuid identity_of(const LegSpec& leg) noexcept {
  const std::string text = fmt::format("{} {}", storage_name(leg.uri), leg.offset.value);
  const std::array halves{fnv(text, 0xcbf29ce484222325ULL), fnv(text, 0x84222325cbf29ce4ULL)};
  Uuid uuid;
  std::memcpy(uuid.data(), halves.data(), uuid.size());
  return uuid;
}

std::string to_text(const Uuid& uuid) {
  std::string text;
  for (std::size_t i = 0; i < uuid.size(); ++i)
    text += fmt::format("{}{:02x}", i == 4 || i == 6 || i == 8 || i == 10 ? "-" : "", uuid[i]);
  return text;
}

Result<Uuid> parse_uuid(std::string_view text) {
  const auto bad = [&] {
    return Error{Errc::invalid, fmt::format("mirror: uuid {}: expected 32 hexadecimal digits, as "
                                            "in 6f9619ff-8b86-4011-b42d-00c04fc964ff",
                                            quoted(text))};
  };
  Uuid uuid{};
  std::size_t digits = 0;
  for (const char c : text) {
    if (c == '-') continue;
    const char lower = static_cast<char>(c | 0x20);
    int value = -1;
    if (c >= '0' && c <= '9') value = c - '0';
    if (lower >= 'a' && lower <= 'f') value = lower - 'a' + 10;
    if (value < 0 || digits == 32) return bad();
    uuid[digits / 2] = static_cast<std::uint8_t>(uuid[digits / 2] << 4 | value);
    ++digits;
  }
  if (digits != 32) return bad();
  return uuid;
}

// --- The record -------------------------------------------------------------------------------

Result<RegionLog> Mirror::record(const Wanted& wanted) {
  Duration timeout{};
  for (std::size_t i = 0; i < wanted.legs.size(); ++i) {
    const auto& leg = wanted.legs[i].leg;
    const bool remote = leg == nullptr || leg->remote() != nullptr;
    timeout =
        std::max<Duration>(timeout, std::chrono::milliseconds(timeout_of(wanted.spec, i, remote)));
  }
  auto store = LogStore::create(wanted.log, timeout);
  if (!store) return store.error();
  log_store_ = std::move(*store);
  // B1: a core log does not know how the process before this one ended. Its writes may be under way
  // still, so every leg has to prove that they are not. A disk log that is empty has seen none, and
  // one that was closed has seen their ends.
  nothing_out_ = false;
  if (!log_store_->durable()) return new_record(wanted);
  auto blank = log_store_->blank();
  if (!blank) return blank.error();
  nothing_out_ = *blank;
  if (*blank) return new_record(wanted);
  auto known = known_record(wanted);
  nothing_out_ = known && known->closed();
  return known;
}

Result<RegionLog> Mirror::new_record(const Wanted& wanted) const {
  LogIdentity identity;
  identity.mirror = random_uuid();
  if (!wanted.spec.uuid.empty()) {
    auto uuid = parse_uuid(wanted.spec.uuid);
    if (!uuid) return uuid.error();
    identity.mirror = *uuid;
  }
  identity.size = size_.value;
  identity.region_size = region_size_.value;
  for (std::size_t i = 0; i < wanted.legs.size(); ++i) {
    identity.roles[i] = Role::member;
    identity.legs[i] = identity_of(wanted.legs[i].spec);
  }
  auto log = RegionLog::create(identity, wanted.spec.sync.value_or(true));
  // A leg's server may have stored an epoch of a mirror before this one, or of this one's core log
  // before a restart: milliseconds are beyond all of these.
  if (log) log->set_epoch(first_epoch());
  return log;
}

Result<RegionLog> Mirror::known_record(const Wanted& wanted) {
  auto uuid = log_store_->peek();
  if (!uuid) return uuid.error();
  if (!wanted.spec.uuid.empty()) {
    auto expected = parse_uuid(wanted.spec.uuid);
    if (!expected) return expected.error();
    if (*expected != *uuid)
      return Error{Errc::invalid,
                   fmt::format("log '{}' belongs to the mirror {}, and the table says {}",
                               wanted.spec.log_uri, to_text(*uuid), to_text(*expected))};
  }
  LogIdentity expect;
  expect.mirror = *uuid;
  expect.size = size_.value;
  expect.region_size = region_size_.value;
  auto log = log_store_->load(expect);
  if (!log) return log;
  if (log->healed() != 0 || log->torn() != 0)
    log_warning(
        fmt::format("mirror: log '{}': {} damaged and {} torn pages were healed from their "
                    "copies",
                    wanted.spec.log_uri, log->healed(), log->torn()));
  if (auto r = match_legs(wanted, *log); !r) return r.error();
  return log;
}

/// The record's legs and the line's: one that the line does not have any more is dropped, one that
/// the record does not know is copied in full.
Result<void> Mirror::match_legs(const Wanted& wanted, RegionLog& log) const {
  const LogIdentity& known = log.identity();
  LegMask kept = 0;
  std::vector<Uuid> fresh;
  for (const WantedLeg& leg : wanted.legs) {
    const Uuid id = identity_of(leg.spec);
    const auto at = std::find(known.legs.begin(), known.legs.end(), id);
    const auto place = static_cast<unsigned>(at - known.legs.begin());
    if (at != known.legs.end() && known.roles[place] == Role::member)
      kept = static_cast<LegMask>(kept | leg_bit(place));
    else
      fresh.push_back(id);
  }
  if (kept == 0)
    return Error{Errc::invalid,
                 fmt::format("log '{}' belongs to a mirror with other legs: expected the log of "
                             "this one, or an empty file",
                             wanted.spec.log_uri)};
  bool dropped = false, whole = false;
  for (unsigned place = 0; place < max_legs; ++place) {
    if (known.roles[place] != Role::member) continue;
    dropped = dropped || (kept & leg_bit(place)) == 0;
    whole = whole || ((kept & leg_bit(place)) != 0 && log.stale_count(place) == 0);
  }
  if (dropped && !whole)
    return Error{Errc::invalid,
                 fmt::format("log '{}' says that none of the table's legs holds everything: "
                             "expected the legs that it was left with",
                             wanted.spec.log_uri)};
  for (unsigned place = 0; place < max_legs; ++place)
    if (known.roles[place] == Role::member && (kept & leg_bit(place)) == 0) {
      log.set_stale_everywhere(place, false);
      log.set_role(place, Role::absent, {});
    }
  for (const Uuid& id : fresh) {
    const auto free = std::find(known.roles.begin(), known.roles.end(), Role::absent);
    const auto place = static_cast<unsigned>(free - known.roles.begin());
    log.set_role(place, Role::member, id);
    log.set_stale_everywhere(place, true);
  }
  return {};
}

// --- Starting ---------------------------------------------------------------------------------

Config Mirror::config_of(const MirrorSpec& spec) const {
  Config config;
  config.size = size_.value;
  config.region_size = region_size_.value;
  config.max_requests = most_requests;
  config.min_acks = spec.min_acks;
  config.read_policy = spec.read_policy;
  config.hedge = ms(spec.hedge_ms);
  config.on_all_failed = spec.on_all_failed;
  config.queue_limit = most_requests;
  if (spec.queue_timeout_ms) config.queue_timeout = ms(*spec.queue_timeout_ms);
  if (spec.clean_delay_ms) config.clean_delay = ms(*spec.clean_delay_ms);
  if (spec.resync_rate) config.resync_rate = spec.resync_rate->value;
  if (spec.resync_min_rate) config.resync_min_rate = spec.resync_min_rate->value;
  config.copy_chunk =
      static_cast<std::uint32_t>(std::min<std::uint64_t>(config.copy_chunk, region_size_.value));
  config.legs.resize(max_legs);
  for (unsigned number = 0; number < max_legs; ++number) {
    const Place& place = places_[number];
    LegConfig& leg = config.legs[number];
    leg.present = place.used;
    if (spec.fence_delay_ms) leg.fence_delay = ms(*spec.fence_delay_ms);
    if (spec.late_limit) leg.zombie_cap = spec.late_limit->value;
    for (std::size_t i = 0; i < spec.legs.size(); ++i) {
      if (!place.used || !same_storage(spec.legs[i], place.spec)) continue;
      leg.timeout = ms(timeout_of(spec, i, place.leg == nullptr || place.remote != nullptr));
      const auto read =
          spec.legs[i].read_timeout_ms ? spec.legs[i].read_timeout_ms : spec.read_timeout_ms;
      leg.read_timeout = ms(read.value_or(0));
      if (spec.preferred == i) config.preferred = number;
    }
  }
  return config;
}

void Mirror::note_modes_locked() {
  all_here_ = true;
  for (const Place& place : places_)
    if (place.used) all_here_ = all_here_ && place.leg != nullptr && place.here;
  hedging_ = spec_.hedge_ms != 0;
  bounded_ = !all_here_ || hedging_;
}

/// Gives a place its leg. What is still out on the one before keeps that.
Result<void> Mirror::put_leg(unsigned number, const WantedLeg& wanted, const MirrorSpec& spec) {
  RemoteLeg* const remote = wanted.leg != nullptr ? wanted.leg->remote() : nullptr;
  Place& place = places_[number];
  auto link = std::make_unique<Link>(*this, number);
  if (remote != nullptr && remote != place.remote)
    if (auto r = remote->take_control(*link); !r) return r;
  std::size_t index = 0;
  while (index + 1 < spec.legs.size() && !same_storage(spec.legs[index], wanted.spec))
    ++index;
  const std::uint64_t timeout = timeout_of(spec, index, wanted.leg == nullptr || remote != nullptr);
  const std::lock_guard lock(mutex_);
  place.used = true;
  place.spec = wanted.spec;
  place.identity = identity_of(wanted.spec);
  place.trouble = wanted.missing;
  place.offset = to_bytes(wanted.spec.offset);
  if (wanted.leg != nullptr && wanted.leg == place.leg && place.lane == (timeout > 0)) return {};
  if (remote != place.remote) {
    place.fenced_once = false;
    place.link = std::move(link);
  }
  place.leg = wanted.leg;
  place.remote = remote;
  place.here = wanted.leg != nullptr && wanted.leg->inline_only() && timeout == 0;
  place.lane = timeout > 0;
  const bool blocks = remote == nullptr || !remote->traits().asynchronous;
  client_->set_leg(number, wanted.leg, {.lane = timeout > 0 && blocks});
  if (place.ops == nullptr && state_ != nullptr) {
    place.ops = std::make_unique<OpContext[]>(state_->leg_ops());
    for (std::uint32_t i = 0; i < state_->leg_ops(); ++i)
      place.ops[i].mirror = this;
  }
  note_modes_locked();
  return {};
}

Result<void> Mirror::start_first(const Wanted& wanted) {
  stop_all();  // what a failed start left
  auto log = record(wanted);
  if (!log) return log.error();
  auto started = start_state(wanted, std::move(*log));
  if (started) started = begin();
  if (!started) stop_all();
  return started;
}

Result<void> Mirror::start_state(const Wanted& wanted, RegionLog log) {
  IoClient::Options options;
  options.name = "bl-mirror";
  options.owner_keeps_unknown = true;
  options.buffers.largest = largest_piece;
  options.buffers.reserve = 2 * wanted.legs.size();
  auto client = IoClient::create(options);
  if (!client) return client.error();
  client_ = std::move(*client);
  client_->buffers().on_room([this] {
    // Whoever drops a buffer may hold any lock.
    post_call([this] { start_parked(); });
  });
  spec_ = wanted.spec;
  wheel_ = DeadlineWheel::shared();
  const LogIdentity identity = log.identity();
  for (const WantedLeg& leg : wanted.legs) {
    const auto at = std::find(identity.legs.begin(), identity.legs.end(), identity_of(leg.spec));
    const auto number = static_cast<unsigned>(at - identity.legs.begin());
    if (auto r = put_leg(number, leg, wanted.spec); !r) return r;
    places_[number].fenced_once = nothing_out_;
  }
  auto state = State::create(config_of(wanted.spec), std::move(log));
  if (!state) return state.error();
  const std::lock_guard lock(mutex_);
  state_ = std::move(*state);
  client_slots_ = most_requests;
  slots_ = std::vector<SlotContext>(state_->slots());
  free_slots_.clear();
  for (Slot slot = client_slots_; slot-- > 0;)
    free_slots_.push_back(slot);
  for (Place& place : places_) {
    if (!place.used) continue;
    place.ops = std::make_unique<OpContext[]>(state_->leg_ops());
    for (std::uint32_t i = 0; i < state_->leg_ops(); ++i)
      place.ops[i].mirror = this;
  }
  return {};
}

/// B1 to B3. Before the process has forked, a mirror with peers only prepares: fences and sessions
/// need threads. Requests wait meanwhile.
Result<void> Mirror::begin() {
  bool peers = false;
  {
    const std::lock_guard lock(mutex_);
    for (const Place& place : places_)
      peers = peers || place.remote != nullptr;
  }
  const auto start = [this] {
    {
      const std::lock_guard lock(mutex_);
      if (std::exchange(begun_, true)) return;
    }
    visit(Event::start(now_ns(), spec_.force), true);
  };
  when_threads_may_start([weak = weak_from_this(), start] {
    const auto self = weak.lock();
    if (!self || self->client_ == nullptr) return;
    if (auto r = self->client_->start(); !r) log_error("mirror: " + r.error().message);
    start();
    self->ensure_worker();
  });
  if (peers && !threads_may_start()) return {};
  start();
  // The machine gives up by itself when what B3 can spare does not come.
  const Duration patience = std::chrono::nanoseconds(Config{}.assemble_timeout) * 2;
  if (!wait_for([this] { return started_; }, Clock::now() + patience))
    return Error{Errc::timed_out, "mirror: its legs could not be fenced in time"};
  const std::lock_guard lock(mutex_);
  if (start_result_ == Errc::ok) return {};
  return Error{start_result_, refusal_locked()};
}

/// Why it did not start, which legs are missing and why, and what to do.
std::string Mirror::refusal_locked() const {
  std::string text = fmt::format("mirror: {}", refusal_);
  bool unfenced = false;
  for (unsigned number = 0; number < max_legs; ++number) {
    if ((missing_legs_ & leg_bit(number)) == 0) continue;
    unfenced = unfenced || state_->leg(number).state == LegState::down_unfenced;
    text += fmt::format(
        "; missing: '{}' ({})", places_[number].spec.uri,
        places_[number].trouble.empty() ? "it does not answer" : places_[number].trouble);
  }
  if (unfenced)
    text += fmt::format(
        "; once nothing that was sent to it before can still land (its server was started anew, "
        "say), start the mirror with force{}",
        log_store_->durable() ? "" : "; a disk log would know of an orderly end by itself");
  return text;
}

}  // namespace blockloom::mirror
