#include "server/iscsi/connection.hpp"

#include <algorithm>
#include <utility>

#include <fmt/format.h>
#include <openssl/rand.h>

#include "server/base/log.hpp"

namespace blockloom::iscsi {
namespace {

/// PDUs that may wait for an initiator that does not read; then it is not listened to.
constexpr std::size_t max_waiting = 512;
/// For the last words to leave, once the connection is to end.
constexpr Duration ending_time = std::chrono::seconds(5);

}  // namespace

struct Connection::LoginPdu final : Outgoing {
  LoginPdu(Connection& c, Login::Response r) : connection(c), response(std::move(r)) {}

  bool next_frame(Frame& frame) noexcept override {
    frame.header = response.header;
    frame.data = reinterpret_cast<const std::byte*>(response.data.data());
    frame.length = static_cast<std::uint32_t>(response.data.size());
    if (final) {
      const Parameters& agreed = connection.login_.parameters();
      connection.sends_.set_digests(agreed.header_digest, agreed.data_digest);
    }
    return true;
  }
  void sent() noexcept override { delete this; }

  Connection& connection;
  Login::Response response;
  bool final = false;  ///< full feature phase begins after it
};

Connection::Connection(Node& node, Wire& wire, Peer peer)
    : node_(node),
      wire_(wire),
      peer_(std::move(peer)),
      options_(node.snapshot()),
      receiver_(*this),
      login_(*this, options_->limits.queue_depth) {}

Connection::~Connection() = default;

void Connection::start() {
  arm(Clock::now());
}

void Connection::received(std::size_t bytes) {
  last_received_ = Clock::now();
  pinged_ = {};
  receiver_.received(bytes);
}

bool Connection::may_read() const noexcept {
  return (state_ == State::login || state_ == State::full_feature) &&
         sends_.waiting() < max_waiting;
}

void Connection::go_on() {
  if (!may_read()) return;
  receiver_.go_on();
  receiver_.process();
}

void Connection::sent(std::size_t bytes) {
  last_sent_ = Clock::now();
  const bool held_back = sends_.waiting() >= max_waiting;
  sends_.sent(bytes);
  if (state_ == State::ending && sends_.empty()) return close({});
  if (held_back && may_read()) wire_.read_soon();
}

std::span<std::byte> Connection::header(const Bhs& header, std::span<const std::uint8_t> ahs) {
  if (state_ == State::full_feature) return session_->header(header, ahs);
  if (state_ != State::login) return {};
  if (header.opcode() != Opcode::login) {
    close("the first PDU is no login request");
    return {};
  }
  login_header_ = header;
  login_data_.resize(header.data_length());
  return std::as_writable_bytes(std::span(login_data_));
}

void Connection::end(bool digest_good) {
  if (state_ == State::full_feature) {
    session_->end(digest_good);
    if (sends_.waiting() >= max_waiting) receiver_.pause();
  } else if (state_ == State::login) {
    login_step();
  }
}

void Connection::broken(RejectReason reason, const Bhs& header) {
  const std::string_view why = reason == RejectReason::invalid_field
                                   ? "a PDU is longer than was declared"
                                   : "a header digest is wrong";
  if (state_ != State::full_feature) return close(why);
  session_->reject(reason, header);
  finish(why);
}

void Connection::send_login(Login::Response response) {
  auto pdu = std::make_unique<LoginPdu>(*this, std::move(response));
  pdu->final = state_ == State::full_feature;
  sends_.push(*pdu.release());  // deletes itself when it was sent
  wire_.send_soon();
}

void Connection::login_step() {
  Login::Response response = login_.step(login_header_, login_data_);
  switch (login_.state()) {
    case Login::State::going_on:
      return send_login(std::move(response));
    case Login::State::failed: {
      node_.warn_refused(fmt::format("{}: login refused ({:04x}): {}", peer_.text,
                                     static_cast<unsigned>(login_.status()), login_.why()));
      send_login(std::move(response));
      return finish({});
    }
    case Login::State::done:
      last_login_ = std::move(response);
      login_data_ = {};
      return try_claim();
  }
}

void Connection::try_claim() {
  const Node::Claim claim = node_.claim(shared_from_this());
  switch (claim.kind) {
    case Node::Claim::Kind::granted:
      receiver_.pause();
      return enter(claim);
    case Node::Claim::Kind::waiting:
      state_ = State::claiming;
      return receiver_.pause();
    case Node::Claim::Kind::refused:
      state_ = State::login;
      send_login(login_.refuse(claim.status));
      node_.warn_refused(fmt::format("{}: login refused ({:04x}): no place for a session",
                                     peer_.text, static_cast<unsigned>(claim.status)));
      return finish({});
  }
}

void Connection::claim_again() {
  if (state_ == State::claiming) try_claim();
}

void Connection::enter(const Node::Claim& claim) {
  const LoginIdentity& who = login_.identity();
  const Parameters& agreed = login_.parameters();
  tsih_ = claim.tsih;
  Session::Start start;
  start.parameters = agreed;
  start.stat_sn = login_.stat_sn();
  start.cmd_sn = login_.cmd_sn();
  start.window = options_->limits.queue_depth;
  start.data_bytes = options_->limits.session_bytes;
  start.discovery = who.discovery;
  SessionHost& host = *this;
  session_ = std::make_unique<Session>(host, sends_, receiver_, start);
  if (claim.target) {
    NexusId id;
    id.initiator = who.initiator;
    for (unsigned i = 0; i < 6; ++i)
      id.isid[i] = static_cast<std::uint8_t>(who.isid >> (40 - 8 * i));
    session_->attach(claim.target->attach(std::move(id), session_.get()));
  }
  counts_.store(&session_->counts(), std::memory_order_release);
  state_ = State::full_feature;
  if (std::exchange(counted_, false)) node_.logged_in();
  receiver_.set_digests(agreed.header_digest, agreed.data_digest);
  receiver_.set_limit(agreed.receive_segment);
  Login::accept(*last_login_, tsih_);
  send_login(std::move(*last_login_));
  last_login_.reset();
  log(LogLevel::debug, fmt::format("iscsi: {} logged in to {} from {}", who.initiator,
                                   who.discovery ? "discovery" : who.target, peer_.text));
  last_received_ = last_sent_ = Clock::now();
  arm(last_sent_);
  wire_.read_soon();  // and go_on() with what came behind the login request
}

void Connection::finish(std::string_view why) noexcept {
  if (state_ == State::ending || state_ == State::closed) return;
  if (!why.empty()) log_info(fmt::format("iscsi: {}: {}", peer_.text, why));
  state_ = State::ending;
  receiver_.stop();
  last_sent_ = Clock::now();
  // Also when nothing waits: sent() or the timer closes, outside of whoever calls this.
  wire_.tick_at(sends_.empty() ? last_sent_ : last_sent_ + ending_time);
  wire_.send_soon();
}

void Connection::kick(std::string_view why) {
  if (state_ == State::full_feature) {
    session_->hush();
    session_->tell(AsyncEvent::drops_session, 0, session_->parameters().default_time2wait, 0);
    return finish(why);
  }
  if (state_ != State::ending) close(why);  // what tells it is on its way
}

void Connection::lost(std::string_view why) {
  close(why);
}

void Connection::close(std::string_view why) {
  if (state_ == State::closed) return;
  if (!why.empty()) log(LogLevel::debug, fmt::format("iscsi: {}: {}", peer_.text, why));
  state_ = State::closed;
  receiver_.stop();
  wire_.close();
  sends_.drop();
  if (std::exchange(counted_, false)) node_.not_logged_in();
  if (session_)
    session_->close();
  else
    over();
}

void Connection::session_over() noexcept {
  counts_.store(nullptr, std::memory_order_release);
  node_.release(tsih_);
  over();
}

void Connection::over() noexcept {
  if (std::exchange(over_, true)) return;
  node_.count_out();
  wire_.over();
}

void Connection::arm(TimePoint now) {
  const IscsiLimits& limits = options_->limits;
  switch (state_) {
    case State::login:
    case State::claiming:
      return wire_.tick_at(began_ + limits.login_timeout);
    case State::full_feature: {
      TimePoint next = pinged_ != TimePoint() ? pinged_ + limits.ping_timeout
                                              : last_received_ + limits.ping_interval;
      if (!sends_.empty()) next = std::min(next, last_sent_ + limits.send_timeout);
      return wire_.tick_at(std::max(next, now + std::chrono::milliseconds(10)));
    }
    case State::ending:
      return wire_.tick_at(last_sent_ + ending_time);
    case State::closed:
      return;
  }
}

void Connection::tick(TimePoint now) {
  const IscsiLimits& limits = options_->limits;
  switch (state_) {
    case State::login:
    case State::claiming:
      if (now - began_ >= limits.login_timeout) return close("login took too long");
      break;
    case State::full_feature:
      if (!sends_.empty() && now - last_sent_ >= limits.send_timeout)
        return close("the initiator does not read");
      if (pinged_ != TimePoint()) {
        if (now - pinged_ >= limits.ping_timeout) return close("the initiator is silent");
      } else if (now - last_received_ >= limits.ping_interval) {
        pinged_ = now;
        session_->ping();
      }
      break;
    case State::ending:
      if (sends_.empty() || now - last_sent_ >= ending_time) return close({});
      break;
    case State::closed:
      return;
  }
  arm(now);
}

void Connection::send_targets(std::string_view which, TextWriter& answer) {
  const LoginIdentity& who = login_.identity();
  if (which.empty() && !who.discovery) which = who.target;
  // RFC 7143 appendix C: "All" is for discovery sessions.
  if (which.empty() || (which == "All" && !who.discovery))
    return answer.add("SendTargets", "Reject");
  node_.send_targets(which, who.initiator, peer_, answer);
}

void Connection::target_was_reset() noexcept {
  node_.kick(0, {}, login_.identity().target, "the target was reset by an initiator");
}

LoginVerdict Connection::judge(const LoginIdentity& identity) {
  return node_.judge(identity, peer_);
}

std::string Connection::random(std::size_t count) {
  std::string bytes(count, '\0');
  if (RAND_bytes(reinterpret_cast<unsigned char*>(bytes.data()), static_cast<int>(count)) != 1)
    bytes.clear();
  return bytes;
}

SessionInfo Connection::info() const {
  SessionInfo info;
  const LoginIdentity& who = login_.identity();
  const Parameters& agreed = login_.parameters();
  info.initiator = who.initiator;
  info.initiator_alias = agreed.initiator_alias;
  info.target = who.target;
  info.isid = who.isid;
  info.peer = peer_.text;
  info.portal = peer_.local_text;
  info.chap_user = login_.chap_user();
  info.connected_s = std::chrono::duration<double>(Clock::now() - began_).count();
  info.header_digest = agreed.header_digest;
  info.data_digest = agreed.data_digest;
  if (const SessionCounts* counts = counts_.load(std::memory_order_acquire)) {
    info.commands = counts->commands;
    info.read_bytes = counts->read_bytes;
    info.written_bytes = counts->written_bytes;
    info.rejects = counts->rejects;
    info.in_flight = counts->in_flight;
  }
  return info;
}

}  // namespace blockloom::iscsi
