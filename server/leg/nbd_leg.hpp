#pragma once

#include <memory>
#include <string>
#include <string_view>

#include "server/leg/block_merge.hpp"
#include "server/leg/leg.hpp"
#include "server/leg/remote_leg.hpp"

namespace blockloom {

class NbdCore;

/// An export of an NBD server, over libnbd. A submit sends from the calling thread and returns
/// pending; it never waits for the server.
///
/// In plain use (linear, striped…) it connects again by itself when the link is lost, with growing
/// pauses up to 5 s. Meanwhile requests wait, until the URI's timeout_ms has passed since they
/// came. What was in flight: reads are sent again; writes end with end_unknown, because a server
/// that still has them could carry them out later, over newer ones. If writes were acknowledged
/// and not flushed when the link was lost, the next flush fails once: the server may have lost
/// them. A server that does not answer a request within timeout_ms counts as a lost link.
///
/// Under a mirror's control (remote_leg.hpp) it does nothing by itself.
class NbdLeg final : public Leg, public RemoteLeg {
 public:
  NbdLeg(std::string uri, std::shared_ptr<NbdCore> core, bool read_only);
  ~NbdLeg() override;

  /// Leg::finish, for NbdCore.
  static void end(Io& io, Errc status) noexcept;

  Bytes size() const noexcept override;
  bool read_only() const noexcept override { return read_only_; }
  Result<void> ready() override;
  void release_held(Errc status) noexcept override;
  RemoteLeg* remote() noexcept override { return this; }

  Traits traits() const noexcept override { return {}; }
  Result<void> take_control(LinkListener& listener) override;
  void fence(std::uint64_t epoch, FenceScope scope, TimePoint deadline, FenceDone done) override;
  void open_session(std::uint64_t epoch, TimePoint deadline, OpenDone done) override;
  Cancel cancel(Io& io) noexcept override;
  void abandon(const Error& reason) noexcept override;
  void release() noexcept override;
  std::string link_state() const override;

 private:
  Submit do_submit(Io& io) noexcept override;

  const std::shared_ptr<NbdCore> core_;
  const bool read_only_;
  std::unique_ptr<BlockMerge> merge_;  // null: the server's blocks are no larger than a sector
};

/// Opens an NBD URI (nbd_uri.hpp): connects once, by its connect_timeout_ms.
Result<std::shared_ptr<Leg>> open_nbd_leg(std::string_view uri, bool read_only);

}  // namespace blockloom
