#include "server/leg/fault_leg.hpp"

#include <algorithm>
#include <cassert>

#include <fmt/format.h>

#include "server/leg/uri.hpp"

namespace blockloom {
namespace {

/// The first half of a transfer, on its way to the wrapped leg.
struct Half {
  Io io;
  Io* whole;
};

}  // namespace

FaultLeg::FaultLeg(std::string uri, std::vector<FaultRule> rules, std::shared_ptr<Leg> inner)
    : Leg(public_uri(uri)),
      inner_(std::move(inner)),
      prefix_(uri.substr(0, uri.find("]:") + 2)),
      rules_(std::move(rules)),
      delayed_("fault-leg", [this](Io& io) { go_on(io); }) {}

FaultLeg::~FaultLeg() {
  assert(hanging_.empty());
}

std::string FaultLeg::uri() const {
  return prefix_ + inner_->uri();
}

Submit FaultLeg::do_submit(Io& io) noexcept {
  std::unique_lock lock(mutex_);
  const auto found =
      std::find_if(rules_.begin(), rules_.end(), [&](const auto& r) { return r.matches(io); });
  if (found == rules_.end()) {
    lock.unlock();
    return forward(*inner_, io);
  }
  if (found->left) --*found->left;
  const FaultRule rule = *found;
  using enum FaultRule::Action;
  if (rule.action == hang || rule.action == delay) return hold(io, rule, std::move(lock));
  lock.unlock();
  if (rule.action == pass) return forward(*inner_, io);
  return rule.action == short_transfer ? transfer_half(io) : io.finish_inline(rule.code);
}

/// The lock is the one that the rule was found under: new rules find the request held.
Submit FaultLeg::hold(Io& io, const FaultRule& rule, std::unique_lock<std::mutex> lock) noexcept {
  if (!holding_) {
    lock.unlock();
    return forward(*inner_, io);
  }
  if (hanging_.size() + delayed_.count() >= max_held) return io.finish_inline(Errc::limit);
  if (rule.action == FaultRule::Action::delay)
    return delayed_.add(io, rule.delay) ? Submit::pending : io.finish_inline(Errc::no_memory);
  hanging_.push_back(&io);
  return Submit::pending;
}

void FaultLeg::go_on(Io& io) noexcept {
  if (forward(*inner_, io) == Submit::done) finish(io, io.status);
}

Submit FaultLeg::transfer_half(Io& io) noexcept {
  const Bytes length(io.length.value / 2 / sector_size * sector_size);
  if (length.value == 0) return io.finish_inline(Errc::io);
  auto half = std::make_unique<Half>(Half{io, &io});
  half->io.length = length;
  half->io.owner = half.get();
  half->io.complete = half_ended;
  if (inner_->submit(half->io) == Submit::done) return io.finish_inline(Errc::io);
  half.release();  // half_ended takes it
  return Submit::pending;
}

void FaultLeg::half_ended(Io& io) noexcept {
  const std::unique_ptr<Half> half(static_cast<Half*>(io.owner));
  finish(*half->whole, Errc::io);
}

void FaultLeg::release_held(Errc status) noexcept {
  std::vector<Io*> held;
  {
    std::lock_guard lock(mutex_);
    holding_ = false;
    held.swap(hanging_);
    const auto delayed = delayed_.take_all();
    held.insert(held.end(), delayed.begin(), delayed.end());
  }
  for (Io* io : held)
    finish(*io, status);
  inner_->release_held(status);
}

void FaultLeg::set_rules(std::vector<FaultRule> rules) {
  std::vector<Io*> held;
  {
    std::lock_guard lock(mutex_);
    rules_ = std::move(rules);
    held.swap(hanging_);
  }
  for (Io* io : held)
    if (do_submit(*io) == Submit::done) finish(*io, io->status);
}

Result<std::string> FaultLeg::message(std::string_view text) {
  const auto space = text.find(' ');
  const std::string_view word = text.substr(0, space);
  const std::string_view rest = space == text.npos ? std::string_view() : text.substr(space + 1);
  if (word == "rules" && !rest.empty()) {
    auto rules = parse_fault_rules(rest);
    if (!rules) return rules.error();
    set_rules(std::move(*rules));
    return std::string();
  }
  if (word == "clear" && rest.empty()) {
    set_rules({});
    return std::string();
  }
  if (word == "inner") return inner_->message(rest);
  std::lock_guard lock(mutex_);
  if (word == "held" && rest.empty())
    return fmt::format("{} hanging, {} delayed", hanging_.size(), delayed_.count());
  if (word == "rules") {
    std::string answer;
    for (const FaultRule& rule : rules_)
      if (rule.left != 0U) answer += (answer.empty() ? "" : ";") + to_string(rule);
    return answer;
  }
  return Error{Errc::invalid,
               fmt::format("message {} to a fault leg: expected rules RULES, rules, clear, held, "
                           "or inner MESSAGE",
                           quoted(text))};
}

Result<std::shared_ptr<Leg>> wrap_in_faults(std::string_view uri, std::string_view rules,
                                            std::shared_ptr<Leg> inner) {
  auto parsed = parse_fault_rules(rules);
  if (!parsed)
    return Error{parsed.code(),
                 fmt::format("leg {}: {}", quoted(public_uri(uri)), parsed.error().message)};
  return std::shared_ptr<Leg>(
      std::make_shared<FaultLeg>(std::string(uri), std::move(*parsed), std::move(inner)));
}

}  // namespace blockloom
