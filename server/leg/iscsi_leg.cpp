#include "server/leg/iscsi_leg.hpp"

#include <algorithm>
#include <cassert>
#include <cerrno>

#include <fmt/format.h>
#include <openssl/crypto.h>
#include <poll.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include "server/leg/secrets.hpp"
#include "server/leg/uri.hpp"

namespace blockloom {
namespace {

constexpr std::uint64_t most_bytes = 1 << 20;  // of one READ or WRITE
constexpr Duration first_pause = std::chrono::milliseconds(100);
constexpr Duration longest_pause = std::chrono::seconds(10);

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
      uri_(std::move(uri)),
      text_(std::move(text)),
      initiator_(std::move(initiator)),
      isid_(stable_isid(uri_, initiator_)),
      size_(traits.blocks * traits.block_size / sector_size * sector_size),
      read_only_(read_only),
      event_fd_(eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK)),
      disk_(std::move(traits)),
      commands_(uri_.queue_depth),
      backoff_(first_pause, longest_pause, now_ns()) {
  const std::uint64_t block = disk_.block_size;
  most_bytes_ = std::max(block, most_bytes / block * block);
  if (disk_.max_transfer > 0)
    most_bytes_ = std::min<std::uint64_t>(most_bytes_, disk_.max_transfer * block);
  // With its descriptors or its blocks zero a disk takes no UNMAP (SBC-3 6.6.4).
  if (disk_.max_unmap_ranges == 0 || disk_.max_unmap_blocks == 0) disk_.can_unmap = false;
  // WRITE SAME (10) reaches no further, and would unmap other blocks.
  if (disk_.blocks > std::uint64_t{1} << 32) disk_.can_unmap_same_10 = false;
  for (IscsiCommand& command : commands_) {
    command.next = free_;
    free_ = &command;
  }
  waiting_.reserve(commands_.size());
}

IscsiLeg::~IscsiLeg() {
  release();
  stop_thread();
  assert(active_.empty() && finished_.empty());
  if (event_fd_ >= 0) close(event_fd_);
  // Const for everybody else.
  for (const std::string* secret : {&uri_.password, &uri_.target_password, &text_})
    OPENSSL_cleanse(const_cast<char*>(secret->data()), secret->size());
}

std::string IscsiLeg::uri() const {
  return RevealSecrets::active() ? text_ : Leg::uri();
}

Result<std::string> IscsiLeg::message(std::string_view text) {
  if (text == "link") return link_state();
  return Error{Errc::invalid,
               fmt::format("message {} to an iSCSI leg: expected link", quoted(text))};
}

Submit IscsiLeg::do_submit(Io& io) noexcept {
  if (read_only_ && io.modifies()) return io.finish_inline(Errc::read_only);
  {
    // Its end is the last thing that is touched here: the Io may end then, and the leg with it.
    const Lock lock(mutex_);
    if (stopping_) return io.finish_inline(Errc::shutdown);
    if (controlled_ && !open_) return io.finish_inline(Errc::io);
    if (const auto done = without_commands(io)) return io.finish_inline(*done);
    if (active_.size() >= max_requests) return io.finish_inline(Errc::limit);
    try {
      start_thread();
      add_request(io);
    } catch (const std::exception&) {  // of the standard library
      return io.finish_inline(Errc::no_memory);
    }
    pump();
    if (must_poke()) poke();
  }
  return Submit::pending;
}

}  // namespace blockloom
