#include "server/iscsi/node.hpp"

#include <algorithm>
#include <utility>

#include <fmt/format.h>

#include "server/base/log.hpp"
#include "server/iscsi/connection.hpp"

namespace blockloom::iscsi {
namespace {

constexpr Duration warning_interval = std::chrono::milliseconds(200);

LogicalUnits::Options unit_options(const IscsiOptions& options) {
  LogicalUnits::Options result;
  result.folder = options.state_folder;
  result.buffer_bytes = options.limits.total_bytes;
  return result;
}

}  // namespace

Node::Node(Registry& registry, const IscsiOptions& options, std::function<void()> idle)
    : registry_(registry),
      units_(LogicalUnits::create(registry, unit_options(options))),
      idle_(std::move(idle)),
      options_(std::make_shared<const IscsiOptions>(served(options))) {
  refresh();
}

Node::~Node() = default;

std::shared_ptr<const IscsiOptions> Node::snapshot() const {
  const std::lock_guard lock(mutex_);
  return options_;
}

const TargetOptions* Node::find_target(const IscsiOptions& options, std::string_view name) const {
  const auto found = std::find_if(options.targets.begin(), options.targets.end(),
                                  [&](const TargetOptions& t) { return t.name == name; });
  return found == options.targets.end() ? nullptr : &*found;
}

// --- connections and logins ---------------------------------------------------------------------

bool Node::count_in() noexcept {
  const auto options = snapshot();
  if (++unauthenticated_ > options->limits.unauthenticated) {
    --unauthenticated_;
    return false;
  }
  if (++connections_ > options->limits.connections) {
    --connections_;
    --unauthenticated_;
    return false;
  }
  return true;
}

void Node::count_out() noexcept {
  --connections_;
}

void Node::warn_refused(const std::string& what) {
  const TimePoint now = Clock::now();
  TimePoint last = last_warning_.load();
  if (now - last < warning_interval || !last_warning_.compare_exchange_strong(last, now)) {
    ++unwarned_;
    return;
  }
  const std::uint64_t more = unwarned_.exchange(0);
  log_warning(more == 0 ? fmt::format("iscsi: {}", what)
                        : fmt::format("iscsi: {} (and {} more before)", what, more));
}

LoginVerdict Node::judge(const LoginIdentity& identity, const Peer& peer) {
  LoginVerdict verdict;
  const auto options = snapshot();
  if (identity.tsih != 0) {
    // One connection a session (MaxConnections=1).
    const std::lock_guard lock(mutex_);
    verdict.status = sessions_.contains(identity.tsih) ? LoginStatus::too_many_connections
                                                       : LoginStatus::no_session;
    return verdict;
  }
  if (identity.discovery) {
    verdict.chap = {options, &options->discovery_chap};
    return verdict;
  }
  const TargetOptions* const target = find_target(*options, identity.target);
  if (target == nullptr) {
    verdict.status = LoginStatus::not_found;
  } else if (!target->access.allows(identity.initiator, peer.address)) {
    verdict.status = LoginStatus::not_allowed;
  } else if (!target->redirect.empty()) {
    verdict.status = LoginStatus::moved_temporarily;
    verdict.redirect = target->redirect;
  } else {
    verdict.alias = target->alias;
    verdict.chap = {options, &target->chap};
    verdict.offers = target->offers;
  }
  return verdict;
}

void Node::send_targets(std::string_view which, std::string_view initiator, const Peer& peer,
                        TextWriter& answer) const {
  const auto options = snapshot();
  for (const TargetOptions& target : options->targets) {
    if (which != "All" && which != target.name) continue;
    if (!target.access.allows(initiator, peer.address)) continue;
    answer.add("TargetName", target.name);
    for (const PortalOptions& portal : options->portals) {
      sockaddr_storage storage;
      to_sockaddr(portal, storage);
      const Address bound = address_of(storage);
      std::string where = portal.advertise.empty() ? to_string(portal) : portal.advertise;
      if (portal.advertise.empty()) {
        // Of one that listens everywhere, the initiator knows the address that it came by.
        if (is_wildcard(bound)) {
          const std::size_t colon = peer.local_text.rfind(':');
          where = fmt::format("{}:{}", peer.local_text.substr(0, colon), portal.port);
        } else if (is_loopback(bound) && !is_loopback(peer.address)) {
          continue;  // it cannot get there
        }
      }
      answer.add("TargetAddress", where + ",1");
    }
  }
}

Node::Claim Node::claim(const std::shared_ptr<Connection>& connection) {
  const LoginIdentity& who = connection->identity();
  const auto options = snapshot();
  const TargetOptions* const target = find_target(*options, who.target);
  bool first = false;
  if (target != nullptr && !who.discovery) {
    const std::lock_guard lock(mutex_);
    const auto found = targets_.find(who.target);
    if (found != targets_.end()) first = found->second.sessions++ == 0;
  }
  // Its devices are held open from now on.
  if (first && target->all_devices) {
    const std::lock_guard one_at_a_time(applying_);
    map_luns(*target);
  }
  const std::lock_guard lock(mutex_);
  Claim claim = claim_locked(connection);
  if (claim.kind != Claim::Kind::granted && !who.discovery) {
    const auto found = targets_.find(who.target);
    if (found != targets_.end() && found->second.sessions > 0) --found->second.sessions;
  }
  return claim;
}

Node::Claim Node::claim_locked(const std::shared_ptr<Connection>& connection) {
  const LoginIdentity& who = connection->identity();
  Claim claim;
  if (!who.discovery) {
    for (auto& [tsih, entry] : sessions_) {
      const LoginIdentity& other = entry.identity;
      if (other.discovery || other.initiator != who.initiator || other.isid != who.isid ||
          other.target != who.target)
        continue;
      // The latest login wins; one that waits already times out.
      entry.waiting = connection;
      end_locked(entry, "its initiator logged in again");
      claim.kind = Claim::Kind::waiting;
      return claim;
    }
    const auto target = targets_.find(who.target);
    if (target == targets_.end()) {
      claim.status = LoginStatus::not_found;
      return claim;
    }
    claim.target = target->second.scsi;
  }
  if (sessions_.size() >= options_->limits.sessions) {
    claim.status = LoginStatus::out_of_resources;
    return claim;
  }
  do
    ++last_tsih_;
  while (last_tsih_ == 0 || sessions_.contains(last_tsih_));
  claim.kind = Claim::Kind::granted;
  claim.tsih = last_tsih_;
  sessions_.emplace(last_tsih_, Entry{connection, who, {}, false});
  return claim;
}

void Node::end_locked(Entry& entry, std::string_view why) {
  if (std::exchange(entry.ending, true)) return;
  entry.connection->mailbox().post(
      [connection = entry.connection, text = std::string(why)] { connection->lost(text); });
}

void Node::release(std::uint16_t tsih) {
  std::shared_ptr<Connection> gone, waiting;  // end after the lock
  bool last = false;
  {
    const std::lock_guard lock(mutex_);
    const auto entry = sessions_.find(tsih);
    if (entry == sessions_.end()) return;
    const auto target = targets_.find(entry->second.identity.target);
    if (target != targets_.end() && target->second.sessions > 0)
      last = --target->second.sessions == 0;
    gone = std::move(entry->second.connection);
    waiting = entry->second.waiting.lock();
    sessions_.erase(entry);
  }
  if (waiting) waiting->mailbox().post([waiting] { waiting->claim_again(); });
  if (last && idle_) idle_();
}

std::size_t Node::kick(std::uint16_t tsih, std::string_view initiator, std::string_view target,
                       std::string_view why) {
  const std::lock_guard lock(mutex_);
  std::size_t kicked = 0;
  for (auto& [number, entry] : sessions_) {
    if ((tsih != 0 && number != tsih) ||
        (!initiator.empty() && entry.identity.initiator != initiator) ||
        (!target.empty() && entry.identity.target != target))
      continue;
    ++kicked;
    entry.connection->mailbox().post(
        [connection = entry.connection, text = std::string(why)] { connection->kick(text); });
  }
  return kicked;
}

std::vector<SessionInfo> Node::sessions() const {
  const std::lock_guard lock(mutex_);
  std::vector<SessionInfo> all;
  for (const auto& [tsih, entry] : sessions_) {
    all.push_back(entry.connection->info());
    all.back().tsih = tsih;
  }
  return all;
}

}  // namespace blockloom::iscsi
