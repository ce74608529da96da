#include "server/leg/iscsi_connector.hpp"

#include <algorithm>
#include <cstring>

#include <fmt/format.h>
#include <netdb.h>
#include <netinet/in.h>
#include <openssl/rand.h>
#include <unistd.h>

#include "proto/scsi/status.hpp"
#include "proto/text/number.hpp"

namespace blockloom {
namespace {

constexpr unsigned max_redirections = 3;

}  // namespace

// --- DiskProbe --------------------------------------------------------------------------------

void DiskProbe::begin() {
  ask(Stage::ready);
}

void DiskProbe::ask(Stage stage) {
  if (stage != stage_) tries_ = 0;
  stage_ = stage;
  const auto size = static_cast<std::uint16_t>(data_.size());
  switch (stage) {
    case Stage::ready:
      task_.cdb = disk::test_unit_ready();
      break;
    case Stage::inquiry:
      task_.cdb = disk::inquiry(96);
      break;
    case Stage::pages:
      task_.cdb = disk::inquiry_page(0x00, size);
      break;
    case Stage::identity:
      task_.cdb = disk::inquiry_page(0x83, size);
      break;
    case Stage::limits:
      task_.cdb = disk::inquiry_page(0xb0, size);
      break;
    case Stage::provisioning:
      task_.cdb = disk::inquiry_page(0xb2, size);
      break;
    case Stage::capacity:
      task_.cdb = disk::read_capacity_16(32);
      break;
    case Stage::small_capacity:
      task_.cdb = disk::read_capacity_10();
      break;
    case Stage::mode:
      task_.cdb = disk::mode_sense_6(0x08, 192);
      break;
  }
  const std::uint32_t lengths[] = {0, 96, size, size, size, size, 32, 8, 192};
  data_.fill(std::byte{0});
  task_.length = lengths[static_cast<std::size_t>(stage)];
  task_.direction = task_.length == 0 ? IscsiTask::Direction::none : IscsiTask::Direction::in;
  task_.data = data_.data();
  session_.start(task_);
  session_.send();
}

DiskProbe::Step DiskProbe::fail(Errc code, std::string message) {
  error_ = {code, std::move(message)};
  return Step::failed;
}

DiskProbe::Step DiskProbe::take(const IscsiTask& task) {
  if (task.end != IscsiTask::End::answered) return fail(Errc::io, "the session was lost");
  if (task.response != 0) return fail(Errc::io, "the target failed");
  const auto sense = disk::parse_sense({task.sense.data(), task.sense_length});
  const auto status = scsi::Status{task.status};
  const bool again =
      status == scsi::Status::busy || status == scsi::Status::task_set_full ||
      (status == scsi::Status::check_condition && sense &&
       (sense->key == disk::key::unit_attention || sense->key == disk::key::aborted));
  if (again && ++tries_ < max_tries) {
    ask(stage_);
    return Step::working;
  }
  const bool required = stage_ == Stage::inquiry || stage_ == Stage::small_capacity;
  // A reservation keeps out what follows; it is told when it matters.
  if (stage_ == Stage::ready && status == scsi::Status::check_condition && sense)
    return sense->key == disk::key::illegal_request
               ? fail(Errc::not_found, "there is no such LUN: expected one that the target has")
               : fail(Errc::io, fmt::format("the LUN is not ready: {}", disk::to_string(*sense)));
  if (required && status != scsi::Status::good)
    return fail(Errc::io, fmt::format("the LUN does not say what it is: {}",
                                      sense ? disk::to_string(*sense)
                                            : fmt::format("status {:02X}h", task.status)));
  const auto* bytes = reinterpret_cast<const std::uint8_t*>(data_.data());
  return answered({bytes, task.transferred}, status == scsi::Status::good);
}

DiskProbe::Step DiskProbe::after_pages(Stage from) {
  if (from < Stage::identity && has_identity_) {
    ask(Stage::identity);
  } else if (from < Stage::limits && has_limits_) {
    ask(Stage::limits);
  } else if (from < Stage::provisioning && has_provisioning_) {
    ask(Stage::provisioning);
  } else {
    ask(Stage::capacity);
  }
  return Step::working;
}

DiskProbe::Step DiskProbe::answered(std::span<const std::uint8_t> data, bool success) {
  switch (stage_) {
    case Stage::ready:
      ask(Stage::inquiry);
      return Step::working;
    case Stage::inquiry:
      if (auto r = disk::check_inquiry(data); !r) return fail(r.code(), r.error().message);
      product_ = disk::product(data);
      ask(Stage::pages);
      return Step::working;
    case Stage::pages:
      has_identity_ = success && disk::lists_page(data, 0x83);
      has_limits_ = success && disk::lists_page(data, 0xb0);
      has_provisioning_ = success && disk::lists_page(data, 0xb2);
      return after_pages(Stage::pages);
    case Stage::identity:
      if (success) disk::take_identity(data, traits_);
      return after_pages(Stage::identity);
    case Stage::limits:
      if (success) disk::take_block_limits(data, traits_);
      return after_pages(Stage::limits);
    case Stage::provisioning:
      if (success) disk::take_provisioning(data, traits_);
      return after_pages(Stage::provisioning);
    case Stage::capacity:
      if (!success || !disk::take_capacity_16(data, traits_)) {
        ask(Stage::small_capacity);
        return Step::working;
      }
      break;
    case Stage::small_capacity:
      if (!disk::take_capacity_10(data, traits_))
        return fail(Errc::io, "the LUN does not say how large it is");
      break;
    case Stage::mode:
      if (success) disk::take_mode_sense(data, traits_);
      return Step::done;
  }
  if (auto r = disk::check_capacity(traits_); !r) return fail(r.code(), r.error().message);
  ask(Stage::mode);
  return Step::working;
}

// --- IscsiConnector ---------------------------------------------------------------------------

IscsiConnector::IscsiConnector(const IscsiUri& uri, std::string initiator, Isid isid)
    : uri_(uri), initiator_(std::move(initiator)), isid_(isid) {}

IscsiConnector::~IscsiConnector() {
  end_session();
}

/// The probe's task goes back before the session goes.
void IscsiConnector::end_session() noexcept {
  if (!session_) return;
  session_->close({Errc::cancelled, "closed"});
  while (session_->take_ended() != nullptr) {
  }
  session_.reset();
  probe_.reset();
}

IscsiConnector::Step IscsiConnector::fail(Error error) {
  end_session();
  error_ = std::move(error);
  return step_ = Step::failed;
}

bool IscsiConnector::resolve(const std::string& host, std::uint16_t port) {
  addrinfo hints{};
  hints.ai_socktype = SOCK_STREAM;
  hints.ai_flags = AI_NUMERICSERV;
  addrinfo* found = nullptr;
  const int result = getaddrinfo(host.c_str(), std::to_string(port).c_str(), &hints, &found);
  addresses_.clear();
  next_ = 0;
  if (result != 0) {
    fail({Errc::not_found, fmt::format("host '{}': {}", host, gai_strerror(result))});
    return false;
  }
  for (const addrinfo* at = found; at != nullptr && addresses_.size() < 16; at = at->ai_next) {
    if (at->ai_family != AF_INET && at->ai_family != AF_INET6) continue;
    Address& address = addresses_.emplace_back();
    std::memcpy(&address.address, at->ai_addr, at->ai_addrlen);
    address.length = at->ai_addrlen;
  }
  freeaddrinfo(found);
  if (!addresses_.empty()) return true;
  fail({Errc::not_found, fmt::format("host '{}' has no IP address", host)});
  return false;
}

void IscsiConnector::begin(TimePoint deadline) {
  end_session();
  deadline_ = deadline;
  redirections_ = 0;
  step_ = Step::working;
  if (resolve(uri_.host, uri_.port)) next_address();
}

void IscsiConnector::next_address() {
  end_session();
  const Address& address = addresses_[next_++];
  session_ = std::make_unique<IscsiSession>(uri_, initiator_, isid_);
  session_->connect(address.address, address.length);
  step_ = Step::working;
}

/// "HOST[:PORT][,GROUP]" (RFC 7143 13.8).
bool IscsiConnector::redirect(const std::string& to) {
  if (++redirections_ > max_redirections) return false;
  std::string host = to.substr(0, to.find(','));
  std::uint16_t port = 3260;
  const auto colon = host.rfind(':');
  if (colon != host.npos && host.find(']', colon) == host.npos) {
    if (!parse_whole(std::string_view(host).substr(colon + 1), port) || port == 0) return false;
    host.resize(colon);
  }
  if (host.size() > 2 && host.front() == '[' && host.back() == ']')
    host = host.substr(1, host.size() - 2);
  // A numeric address only: a name would make this wait for the resolver.
  addrinfo hints{};
  hints.ai_flags = AI_NUMERICHOST;
  addrinfo* found = nullptr;
  if (getaddrinfo(host.c_str(), nullptr, &hints, &found) != 0) return false;
  freeaddrinfo(found);
  return resolve(host, port);
}

IscsiConnector::Step IscsiConnector::step(short revents) {
  if (step_ != Step::working) return step_;
  const bool late = Clock::now() >= deadline_;
  if (revents != 0) session_->handle(revents);
  if (session_->state() == IscsiSession::State::ready && !probe_) {
    probe_ = std::make_unique<DiskProbe>(*session_);
    probe_->begin();
  }
  for (IscsiTask* task; (task = session_->take_ended()) != nullptr;) {
    // Why the session ended says more than that its command did.
    if (session_->state() == IscsiSession::State::closed) break;
    const DiskProbe::Step probe = probe_->take(*task);
    if (probe == DiskProbe::Step::failed) return fail(probe_->error());
    if (probe != DiskProbe::Step::done) continue;
    traits_ = probe_->traits();
    product_ = probe_->product();
    probe_.reset();
    return step_ = Step::up;
  }
  if (session_->state() == IscsiSession::State::closed) {
    const Error why = session_->error();
    const std::string moved = session_->moved_to();
    if (!moved.empty()) {
      if (!redirect(moved))
        return fail(
            {Errc::io, fmt::format("the target has moved to {}, where it cannot be followed",
                                   quoted(moved))});
      next_address();
    } else if (next_ < addresses_.size() && !late) {
      next_address();
    } else {
      return fail(why);
    }
  }
  if (late)
    return fail({Errc::timed_out, session_->state() == IscsiSession::State::connecting
                                      ? "no connection in time"
                                      : "no answer to the login in time"});
  return step_;
}

// --- Names ------------------------------------------------------------------------------------

std::string default_initiator_name() {
  char host[256] = "localhost";
  static_cast<void>(gethostname(host, sizeof host - 1));
  std::string name = "iqn.2026-11.io.blockloom:";
  for (const char* at = host; *at != '\0' && name.size() < 200; ++at) {
    const char c = *at;
    const bool plain = (c >= 'a' && c <= 'z') || (c >= '0' && c <= '9') || c == '-' || c == '.';
    const bool capital = c >= 'A' && c <= 'Z';
    name += plain ? c : capital ? static_cast<char>(c - 'A' + 'a') : '-';
  }
  return name;
}

Isid stable_isid(const IscsiUri& uri, const std::string& initiator) {
  // FNV-1a; forty bits of it tell sessions of one initiator apart.
  std::uint64_t hash = 0xcbf2'9ce4'8422'2325;
  const auto add = [&](std::string_view text) {
    for (const char c : text)
      hash = (hash ^ static_cast<unsigned char>(c)) * 0x100'0000'01b3;
    hash = (hash ^ 0xff) * 0x100'0000'01b3;
  };
  add(initiator);
  add(uri.target);
  add(std::to_string(uri.lun));
  // 0x80: the random type (RFC 7143 11.12.5), whose other bytes are free.
  return {0x80,
          static_cast<std::uint8_t>(hash >> 32),
          static_cast<std::uint8_t>(hash >> 24),
          static_cast<std::uint8_t>(hash >> 16),
          static_cast<std::uint8_t>(hash >> 8),
          static_cast<std::uint8_t>(hash)};
}

Isid random_isid() {
  Isid isid{0x80};
  static_cast<void>(RAND_bytes(isid.data() + 1, static_cast<int>(isid.size() - 1)));
  return isid;
}

}  // namespace blockloom
