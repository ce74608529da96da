#include "server/leg/iscsi_leg.hpp"

#include <algorithm>

#include <fmt/format.h>
#include <openssl/crypto.h>
#include <poll.h>

#include "server/leg/iscsi_connector.hpp"
#include "server/leg/iscsi_core.hpp"
#include "server/leg/secrets.hpp"
#include "server/leg/uri.hpp"

namespace blockloom {
namespace {

/// Polls until the connector is done. Before the process has forked, too: there is no thread.
IscsiConnector::Step run_to_end(IscsiConnector& connector) {
  while (connector.state() == IscsiConnector::Step::working) {
    const auto left = connector.deadline() - Clock::now();
    const auto ms = std::chrono::duration_cast<std::chrono::milliseconds>(left).count() + 1;
    pollfd fd{connector.fd(), connector.events(), 0};
    const int n = poll(&fd, 1, static_cast<int>(std::clamp<std::int64_t>(ms, 0, 60'000)));
    connector.step(n > 0 ? fd.revents : short{0});
  }
  return connector.state();
}

/// Logs out in order, without waiting for long.
void end_in_order(IscsiSession& session) {
  const TimePoint deadline = Clock::now() + std::chrono::seconds(1);
  session.logout();
  session.send();
  while (session.state() != IscsiSession::State::closed && Clock::now() < deadline) {
    pollfd fd{session.fd(), session.events(), 0};
    if (poll(&fd, 1, 100) > 0) session.handle(fd.revents);
  }
}

Result<std::shared_ptr<Leg>> open_leg_of(IscsiUri uri, std::string_view text, bool read_only) {
  if (auto r = read_passwords(uri); !r) return r.error();
  const std::string initiator = uri.initiator.empty() ? default_initiator_name() : uri.initiator;
  // The session that a leg in use has to the same LUN goes on: this one has another ISID.
  IscsiConnector connector(uri, initiator, random_isid());
  connector.begin(Clock::now() + uri.login_timeout);
  if (run_to_end(connector) != IscsiConnector::Step::up)
    return Error{connector.error().code,
                 fmt::format("{}: {}", portal_text(uri), connector.error().message)};
  const auto session = connector.take_session();
  end_in_order(*session);
  disk::Traits traits = connector.traits();
  if (traits.read_only && !read_only)
    return Error{Errc::read_only, "the LUN is write-protected: load this table read-only"};
  return std::shared_ptr<Leg>(std::make_shared<IscsiLeg>(std::move(uri), std::string(text),
                                                         initiator, std::move(traits), read_only));
}

}  // namespace

Result<std::shared_ptr<Leg>> open_iscsi_leg(std::string_view text, bool read_only) {
  auto uri = parse_iscsi_uri(text);
  if (!uri) return uri.error();
  auto leg = open_leg_of(std::move(*uri), text, read_only);
  if (leg) return leg;
  return Error{leg.code(),
               fmt::format("leg {}: {}", quoted(public_uri(text)), leg.error().message)};
}

IscsiLeg::IscsiLeg(IscsiUri uri, std::string text, std::string initiator, disk::Traits traits,
                   bool read_only)
    : Leg(public_uri(text)),
      text_(std::move(text)),
      core_(std::make_shared<IscsiCore>(std::move(uri), Leg::uri(), std::move(initiator),
                                        std::move(traits), read_only, finish)) {}

IscsiLeg::~IscsiLeg() {
  core_->release();
  core_->stop();
  // Const for everybody else.
  OPENSSL_cleanse(const_cast<char*>(text_.data()), text_.size());
}

std::string IscsiLeg::uri() const {
  return RevealSecrets::active() ? text_ : Leg::uri();
}

Bytes IscsiLeg::size() const noexcept {
  return core_->size();
}

bool IscsiLeg::read_only() const noexcept {
  return core_->read_only();
}

Result<std::string> IscsiLeg::message(std::string_view text) {
  if (text == "link") return link_state();
  return Error{Errc::invalid,
               fmt::format("message {} to an iSCSI leg: expected link", quoted(text))};
}

Submit IscsiLeg::do_submit(Io& io) noexcept {
  return core_->submit(io);
}

RemoteLeg::Traits IscsiLeg::traits() const noexcept {
  return core_->traits();
}

Result<void> IscsiLeg::take_control(LinkListener& listener) {
  return core_->take_control(*this, listener);
}

void IscsiLeg::fence(std::uint64_t epoch, FenceScope scope, TimePoint deadline, FenceDone done) {
  core_->fence(epoch, scope, deadline, std::move(done));
}

void IscsiLeg::open_session(std::uint64_t epoch, TimePoint deadline, OpenDone done) {
  core_->open_session(epoch, deadline, std::move(done));
}

Cancel IscsiLeg::cancel(Io& io) noexcept {
  return core_->cancel(io);
}

void IscsiLeg::abandon(const Error& reason) noexcept {
  core_->abandon(reason);
}

void IscsiLeg::release() noexcept {
  core_->release();
}

std::string IscsiLeg::link_state() const {
  return core_->link_state();
}

}  // namespace blockloom
