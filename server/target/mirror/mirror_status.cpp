// What people see of a mirror, and what they tell it.
#include <algorithm>

#include <fmt/format.h>

#include "server/leg/uri.hpp"
#include "server/target/mirror/json_text.hpp"
#include "server/target/mirror/mirror.hpp"
#include "server/target/table_line.hpp"

namespace blockloom::mirror {
namespace {

std::string_view to_string(MirrorView::Phase phase) noexcept {
  switch (phase) {
    case MirrorView::Phase::fresh:
      return "fresh";
    case MirrorView::Phase::assembling:
      return "assembling";
    case MirrorView::Phase::serving:
      return "serving";
    case MirrorView::Phase::refused:
      return "refused";
    case MirrorView::Phase::suspended:
      return "suspended";
    case MirrorView::Phase::stopped:
      break;
  }
  return "stopped";
}

char letter(const LegView& leg, bool read_failed) noexcept {
  if (leg.state != LegState::up) return 'D';
  if (leg.stale_regions != 0) return 'S';
  return read_failed ? 'R' : 'A';
}

}  // namespace

std::string Mirror::status_words(const Wanted& wanted) const {
  const std::lock_guard lock(mutex_);
  const std::uint64_t regions = (size_.value + region_size_.value - 1) / region_size_.value;
  std::string letters;
  for (const WantedLeg& leg : wanted.legs) {
    const int place = place_of(leg.spec);
    letters += state_ == nullptr || place < 0
                   ? 'D'
                   : letter(state_->leg(static_cast<unsigned>(place)),
                            places_[static_cast<unsigned>(place)].read_failed);
  }
  const std::uint64_t in_sync = state_ != nullptr ? state_->view(0).in_sync_regions : 0;
  return fmt::format("{}/{} 1 {}", in_sync, regions, letters);
}

void Mirror::progress_details(Json& json, const MirrorView& view) const {
  json.open("log");
  json.text("type", spec_.disk_log ? "disk" : "core");
  if (spec_.disk_log) json.text("leg", spec_.log_uri);
  json.number("commits", view.log_commits);
  json.boolean("failing", view.log_failing);
  json.close();
  json.open("resync");
  json.boolean("running", view.resync.running);
  json.boolean("paused", view.resync.paused);
  json.number("bytes_left", view.resync.bytes_left);
  json.number("bytes_done", view.resync.bytes_done);
  json.number("bytes_per_second", view.resync.bytes_second);
  if (view.resync.left != never) json.seconds("seconds_left", view.resync.left);
  json.close();
}

void Mirror::scrub_details(Json& json, const MirrorView& view, const Wanted& wanted) const {
  json.open("scrub");
  json.boolean("running", view.scrubbing);
  json.number("next", view.scrub_next);
  json.number("mismatches", view.scrub_mismatches);
  json.open_list("list");
  for (const Mismatch& m : state_->mismatches()) {
    json.open();
    json.number("offset", m.offset);
    json.number("length", m.length);
    json.open_list("legs");
    for (std::size_t i = 0; i < wanted.legs.size(); ++i) {
      const int place = place_of(wanted.legs[i].spec);
      if (place >= 0 && (m.legs & leg_bit(static_cast<unsigned>(place))) != 0) json.number({}, i);
    }
    json.close_list();
    json.close();
  }
  json.close_list();
  json.close();
}

void Mirror::leg_details(Json& json, const LegSpec& spec, Time now) const {
  const int number = place_of(spec);
  json.open();
  json.text("uri", spec.uri);
  json.number("offset", spec.offset.value);
  if (number < 0) {
    json.text("state", "absent");
    json.close();
    return;
  }
  const auto at = static_cast<unsigned>(number);
  const Place& place = places_[at];
  const LegView leg = state_->leg(at);
  json.number("place", at);
  json.text("state", to_string(leg.state));
  json.text("health", std::string(1, letter(leg, place.read_failed)));
  json.boolean("failed_by_hand", leg.held);
  json.number("stale_regions", leg.stale_regions);
  json.number("epoch", leg.epoch);
  json.number("outstanding", leg.outstanding);
  json.number("late_writes", leg.zombies);
  json.number("late_bytes", leg.zombie_bytes);
  if (leg.unflushed_only_here) json.boolean("unflushed_only_here", true);
  json.number("errors", leg.errors);
  json.number("timeouts", leg.timeouts);
  json.number("fences", leg.fences);
  if (leg.last_error != Errc::ok) json.text("last_error", blockloom::to_string(leg.last_error));
  if (leg.retry_at != never)
    json.seconds("retry_in_s", leg.retry_at > now ? leg.retry_at - now : 0);
  if (!place.trouble.empty()) json.text("reason", place.trouble);
  if (place.remote != nullptr) json.text("link", place.remote->link_state());
  json.text("way", place.leg == nullptr      ? "missing"
                   : place.here              ? "inline"
                   : place.remote != nullptr ? "asynchronous"
                                             : "lane");
  json.close();
}

std::string Mirror::details(const Wanted& wanted) const {
  Json json;
  const Time now = now_ns();
  const std::lock_guard lock(mutex_);
  json.open();
  json.text("type", "mirror");
  if (state_ == nullptr) {
    json.text("phase", "not started");
    json.close();
    return json.take();
  }
  const MirrorView view = state_->view(now);
  json.text("phase", to_string(view.phase));
  if (!refusal_.empty()) json.text("refusal", refusal_);
  json.text("uuid", to_text(state_->log().identity().mirror));
  json.number("size", size_.value);
  json.number("region_size", view.region_size);
  json.number("regions", view.regions);
  json.number("in_sync_regions", view.in_sync_regions);
  json.boolean("in_sync",
               view.in_sync_regions == view.regions && view.phase == MirrorView::Phase::serving);
  json.number("dirty_regions", view.dirty_regions);
  json.number("epoch", view.epoch);
  json.number("in_flight", view.in_flight);
  json.number("parked", parked_.size());
  json.number("waiting_for_leg", view.waiting_for_leg);
  if (view.waiting_for_leg != 0) {
    json.open("waiting");
    json.number("flushes", view.waiting_flushes);
    if (view.waiting_error != Errc::ok) {
      json.text("error", blockloom::to_string(view.waiting_error));
      json.number("offset", view.waiting_offset);
    }
    if (view.waiting_until != never)
      json.seconds("given_up_in_s", view.waiting_until > now ? view.waiting_until - now : 0);
    json.close();
  }
  json.number("degraded_writes", view.degraded_writes);
  json.number("hedged_reads", view.hedged_reads);
  json.number("retried_reads", view.retried_reads);
  progress_details(json, view);
  scrub_details(json, view, wanted);
  json.open_list("legs");
  for (const WantedLeg& leg : wanted.legs)
    leg_details(json, leg.spec, now);
  json.close_list();
  json.close();
  return json.take();
}

// --- Messages ---------------------------------------------------------------------------------

Result<std::string> Mirror::message(std::span<const std::string> words, const Wanted& wanted) {
  constexpr std::string_view expected =
      "expected check, repair, stop, pause, resume, rate BYTES, fail N, readd N or vouch N";
  const auto wrong = [&] {
    std::string text;
    for (const std::string& word : words)
      text += (text.empty() ? "" : " ") + word;
    return Error{Errc::invalid, fmt::format("mirror: message {}: {}", quoted(text), expected)};
  };
  if (words.empty() || words.size() > 2) return wrong();
  const std::string& verb = words[0];
  const Time now = now_ns();
  Event event;
  if (words.size() == 1) {
    if (verb == "check")
      event = Event::start_scrub(now, Scrub::check);
    else if (verb == "repair")
      event = Event::start_scrub(now, Scrub::repair);
    else if (verb == "stop")
      event = Event::stop_scrub(now);
    else if (verb == "pause")
      event = Event::pause_resync(now);
    else if (verb == "resume")
      event = Event::resume_resync(now);
    else
      return wrong();
  } else if (verb == "rate") {
    auto rate = words[1] == "0" ? Result<Bytes>(Bytes(0)) : parse_size(words[1], "mirror: rate");
    if (!rate) return rate.error();
    event = Event::set_resync_rate(now, rate->value);
  } else {
    auto number = parse_number(words[1], "mirror: leg", wanted.legs.size() - 1);
    if (!number) return number.error();
    int place = -1;
    {
      const std::lock_guard lock(mutex_);
      place = place_of(wanted.legs[*number].spec);
    }
    if (place < 0)
      return Error{Errc::not_found, fmt::format("mirror: leg {} is not part of it now", *number)};
    const auto at = static_cast<unsigned>(place);
    if (verb == "fail")
      event = Event::fail_leg(now, at);
    else if (verb == "readd")
      event = Event::readd_leg(now, at);
    else if (verb == "vouch")
      event = Event::vouch_leg(now, at);
    else
      return wrong();
  }
  {
    const std::lock_guard lock(mutex_);
    if (state_ == nullptr) return Error{Errc::busy, "mirror: it does not serve yet"};
    if (auto may = state_->may(event); !may) return may.error();
  }
  visit(event, true);
  return std::string();
}

}  // namespace blockloom::mirror
