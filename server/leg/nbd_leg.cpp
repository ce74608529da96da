#include "server/leg/nbd_leg.hpp"

#include <utility>

#include <fmt/format.h>

#include "server/leg/nbd_core.hpp"

namespace blockloom {

NbdLeg::NbdLeg(std::string uri, std::shared_ptr<NbdCore> core, bool read_only)
    : Leg(std::move(uri)), core_(std::move(core)), read_only_(read_only) {
  if (const std::uint32_t block = core_->facts().min_block; block > sector_size)
    merge_ = std::make_unique<BlockMerge>(block, [this](Io& io) { return core_->submit(io); });
}

void NbdLeg::end(Io& io, Errc status) noexcept {
  if (io.leg != nullptr) [[likely]]
    return finish(io, status);
  io.status = status;  // a part of one, which merge_ makes
  io.complete(io);
}

NbdLeg::~NbdLeg() {
  core_->stop();
  core_->let_go();
}

Bytes NbdLeg::size() const noexcept {
  return core_->facts().size;
}

Result<void> NbdLeg::ready() {
  return core_->ready();
}

void NbdLeg::release_held(Errc status) noexcept {
  core_->release_held(status);
}

Submit NbdLeg::do_submit(Io& io) noexcept {
  const NbdExport& facts = core_->facts();
  if (read_only_ && io.modifies()) [[unlikely]]
    return io.finish_inline(Errc::read_only);
  // What the server cannot do, and need not be asked.
  switch (io.op) {
    case Op::read:
    case Op::write:
      break;
    case Op::flush:
      if (!facts.can_flush) return io.finish_inline(Errc::ok);
      break;
    case Op::trim:
      if (!facts.can_trim) return io.finish_inline(Errc::ok);  // a hint
      break;
    case Op::cache:
      if (!facts.can_cache) return io.finish_inline(Errc::ok);  // a hint
      break;
    case Op::zero:
      if (io.has(io_flag::fast) && !(facts.can_zero && facts.can_fast_zero))
        return io.finish_inline(Errc::not_supported);
      break;
    case Op::extents:
      if (facts.can_tell_extents) break;
      io.extents->add({io.length, false, false});
      return io.finish_inline(Errc::ok);
  }
  if (merge_ && !merge_->passes(io)) [[unlikely]]
    return merge_->submit(io, end);
  return core_->submit(io);
}

// --- RemoteLeg
// ------------------------------------------------------------------------------------------

Result<void> NbdLeg::take_control(LinkListener& listener) {
  return core_->take_control(*this, listener);
}

void NbdLeg::fence(std::uint64_t epoch, FenceScope scope, TimePoint deadline, FenceDone done) {
  core_->fence(epoch, scope, deadline, std::move(done));
}

void NbdLeg::open_session(std::uint64_t epoch, TimePoint deadline, OpenDone done) {
  core_->open_session(epoch, deadline, std::move(done));
}

Cancel NbdLeg::cancel(Io& io) noexcept {
  const Cancel answer = core_->cancel(io);
  return answer == Cancel::gone && merge_ && merge_->has(io) ? Cancel::unknown : answer;
}

void NbdLeg::abandon(const Error& reason) noexcept {
  core_->abandon(reason);
}

void NbdLeg::release() noexcept {
  core_->stop();
}

std::string NbdLeg::link_state() const {
  return core_->link_state();
}

Result<std::shared_ptr<Leg>> open_nbd_leg(std::string_view uri, bool read_only) {
  auto parsed = parse_nbd_uri(uri);
  if (!parsed)
    return Error{parsed.code(), fmt::format("leg {}: {}", quoted(uri), parsed.error().message)};
  auto core = NbdCore::open(std::string(uri), std::move(*parsed), read_only, NbdLeg::end);
  if (!core) return core.error();
  return std::shared_ptr<Leg>(
      std::make_shared<NbdLeg>(std::string(uri), std::move(*core), read_only));
}

}  // namespace blockloom
