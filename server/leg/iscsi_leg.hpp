#pragma once

#include <memory>
#include <string>
#include <string_view>

#include "server/leg/iscsi_uri.hpp"
#include "server/leg/leg.hpp"
#include "server/leg/remote_leg.hpp"
#include "server/leg/scsi_disk.hpp"

namespace blockloom {

class IscsiCore;

/// A LUN of an iSCSI target.
///
/// Requests are sent from the caller's thread; one thread of the leg's own, which starts with the
/// first of them, receives, keeps time, connects, and completes. The session is made when it is
/// first needed. Used plainly (linear, striped…), the leg connects again after a loss and repeats
/// what was not answered, after the login and a LUN RESET have ended the old session's commands;
/// if writes had been answered and not flushed, the next flush fails once, because a target that
/// went down may have lost them; a request that has no answer at its deadline fails with
/// Errc::timed_out. Under a mirror's control it does what RemoteLeg says. Blocks larger than 512
/// bytes: a write that is not made of whole blocks reads and rewrites those at its ends, while
/// other writes to them wait.
class IscsiLeg final : public Leg, public RemoteLeg {
 public:
  /// `text` is the URI as it was written. The traits are those that a probe found.
  IscsiLeg(IscsiUri uri, std::string text, std::string initiator, disk::Traits traits,
           bool read_only);
  ~IscsiLeg() override;

  std::string uri() const override;
  Bytes size() const noexcept override;
  bool read_only() const noexcept override;
  RemoteLeg* remote() noexcept override { return this; }
  /// "link" answers link_state().
  Result<std::string> message(std::string_view text) override;

  RemoteLeg::Traits traits() const noexcept override;
  Result<void> take_control(LinkListener& listener) override;
  void fence(std::uint64_t epoch, FenceScope scope, TimePoint deadline, FenceDone done) override;
  void open_session(std::uint64_t epoch, TimePoint deadline, OpenDone done) override;
  Cancel cancel(Io& io) noexcept override;
  void abandon(const Error& reason) noexcept override;
  void release() noexcept override;
  std::string link_state() const override;

 private:
  Submit do_submit(Io& io) noexcept override;

  const std::string text_;
  const std::shared_ptr<IscsiCore> core_;
};

/// Opens "iscsi://…" (iscsi_uri.hpp): logs in, learns what is there, and logs out. Bounded by the
/// URI's login_timeout, and for a host name by the system's resolver.
Result<std::shared_ptr<Leg>> open_iscsi_leg(std::string_view uri, bool read_only);

}  // namespace blockloom
