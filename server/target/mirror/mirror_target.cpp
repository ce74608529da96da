#include <algorithm>

#include <fmt/format.h>

#include "server/leg/secrets.hpp"
#include "server/leg/uri.hpp"
#include "server/target/mirror/mirror.hpp"
#include "server/target/table_line.hpp"
#include "server/target/types.hpp"

namespace blockloom {
namespace {

// mirror LOG #LOGARGS LOGARG… #LEGS (LEG OFFSET)… [#FEATURES FEATURE…]   (see mirror/spec.hpp)
//
//   Writes go to all legs, reads to one; a leg that does not answer in its time is left behind,
//   and copied again when it is back (docs/mirror-design.md). The mirror itself outlives the
//   table: the next one with its log or one of its legs goes on with it.
//   Status: LEGS LEG… IN_SYNC/REGIONS 1 HEALTH #LOG LOG…, one letter a leg: A alive, D down,
//   S out of sync, R had a read error.

using mirror::Mirror;
using mirror::Wanted;

// Pieces of a request: a buffer each, and short locks.
class MirrorTarget final : public Target {
 public:
  MirrorTarget(std::shared_ptr<Mirror> mirror, Wanted wanted)
      : mirror_(std::move(mirror)), wanted_(std::move(wanted)) {
    for (const auto& leg : wanted_.legs)
      if (leg.leg != nullptr) legs_.push_back(leg.leg);
  }
  ~MirrorTarget() override { mirror_->let_go(this); }

  std::string_view type() const noexcept override { return "mirror"; }
  std::span<const std::shared_ptr<Leg>> legs() const noexcept override { return legs_; }
  Bytes chunk() const noexcept override {
    return std::min(mirror::largest_piece, to_bytes(wanted_.spec.region_size));
  }
  bool chunks_all() const noexcept override { return true; }
  bool maps_flush() const noexcept override { return true; }
  bool inline_only() const noexcept override { return false; }
  bool watches_legs() const noexcept override { return true; }

  Map map(Io& io) noexcept override { return mirror_->map(io); }

  void presuspend() noexcept override { mirror_->presuspend(this); }
  void presuspend_undo() noexcept override { mirror_->presuspend_undo(this); }
  void postsuspend() noexcept override { mirror_->postsuspend(this); }
  Result<void> preresume() override {
    auto taken = mirror_->take(this, wanted_);
    return taken ? taken : Error{taken.code(), public_uri(taken.error().message)};
  }
  void resume() noexcept override { mirror_->resume(this); }

  void release_held(Errc status) noexcept override { mirror_->release_held(status); }
  std::uint64_t held() const noexcept override { return mirror_->held(); }

  Result<std::string> message(std::span<const std::string> words) override {
    return mirror_->message(words, wanted_);
  }

  std::string status() const override {
    std::string text = fmt::format("{}", wanted_.legs.size());
    for (const auto& leg : wanted_.legs)
      text += ' ' + escape_word(leg.spec.uri);
    const auto& spec = wanted_.spec;
    return public_uri(fmt::format(
        "{} {} {}", text, mirror_->status_words(wanted_),
        spec.disk_log ? fmt::format("3 disk {} A", escape_word(spec.log_uri)) : "1 core"));
  }
  std::string table() const override {
    std::string text = mirror::to_text(wanted_.spec);
    return RevealSecrets::active() ? text : public_uri(text);
  }
  std::string details() const override { return public_uri(mirror_->details(wanted_)); }

 private:
  const std::shared_ptr<Mirror> mirror_;
  Wanted wanted_;
  std::vector<std::shared_ptr<Leg>> legs_;
};

/// A leg that is not there does not keep the others from serving: the record says whether they
/// may (B3). One that is there and does not fit is a mistake.
Result<mirror::WantedLeg> open_wanted(const TargetArgs& args, const Mirror& mirror,
                                      const mirror::LegSpec& spec) {
  mirror::WantedLeg wanted{spec, {}, {}};
  if (auto known = mirror.open_leg_of(spec)) {
    auto adopted = args.legs.adopt(spec.uri, std::move(known), spec.offset, args.length);
    if (!adopted) return adopted.error();
    wanted.leg = std::move(*adopted);
  } else {
    auto opened = args.legs.open(spec.uri, spec.offset, args.length);
    const bool absent = opened.code() == Errc::not_found || opened.code() == Errc::io ||
                        opened.code() == Errc::timed_out || opened.code() == Errc::permission ||
                        opened.code() == Errc::busy;
    const bool returns = device_in_uri(spec.uri).empty() && !spec.uri.starts_with("mem:");
    if (!opened && !(absent && returns)) return opened.error();
    if (opened)
      wanted.leg = std::move(*opened);
    else
      wanted.missing = opened.error().message;
  }
  if (wanted.leg != nullptr && wanted.leg->read_only())
    return Error{Errc::read_only, fmt::format("mirror: leg '{}' is read-only: a mirror has to "
                                              "write, to keep its legs in step",
                                              spec.uri)};
  return wanted;
}

Result<std::shared_ptr<Leg>> open_log(const TargetArgs& args, const Mirror& mirror,
                                      const mirror::MirrorSpec& spec) {
  if (!spec.disk_log) return std::shared_ptr<Leg>();
  mirror::LogIdentity identity;
  identity.size = to_bytes(args.length).value;
  identity.region_size = to_bytes(spec.region_size).value;
  if (auto fits = mirror::RegionLog::check(identity); !fits) return fits.error();
  const Bytes need(mirror::RegionLog::bytes_needed(mirror::RegionLog::regions_of(identity)));
  if (auto known = mirror.open_log(spec.log_uri))
    return args.legs.adopt(spec.log_uri, std::move(known), Sectors(0), to_sectors(need));
  auto leg = args.legs.open(spec.log_uri, Sectors(0), to_sectors(need));
  if (!leg)
    return Error{leg.code(), fmt::format("mirror: its log, which takes {} bytes for this size: {}",
                                         need.value, leg.error().message)};
  return leg;
}

}  // namespace

Result<std::unique_ptr<Target>> create_mirror_target(const TargetArgs& args) {
  auto spec = mirror::parse_mirror(args.words);
  if (!spec) return spec.error();
  auto found = Mirror::find_or_make(*spec, to_bytes(args.length));
  if (!found) return found.error();
  Wanted wanted;
  wanted.spec = std::move(*spec);
  wanted.size = to_bytes(args.length);
  std::size_t open = 0;
  for (const mirror::LegSpec& leg : wanted.spec.legs) {
    auto opened = open_wanted(args, **found, leg);
    if (!opened) return opened.error();
    open += opened->leg != nullptr ? 1 : 0;
    wanted.legs.push_back(std::move(*opened));
  }
  if (open == 0)
    return Error{Errc::not_found, fmt::format("mirror: none of its legs can be opened: {}",
                                              wanted.legs.front().missing)};
  auto log = open_log(args, **found, wanted.spec);
  if (!log) return log.error();
  wanted.log = std::move(*log);
  return std::unique_ptr<Target>(new MirrorTarget(std::move(*found), std::move(wanted)));
}

}  // namespace blockloom
