#pragma once

#include <memory>
#include <mutex>
#include <string>
#include <string_view>
#include <vector>

#include "server/leg/delayed_ios.hpp"
#include "server/leg/fault_rules.hpp"
#include "server/leg/leg.hpp"

namespace blockloom {

/// Wraps another leg and does wrong what the rules say (fault_rules.hpp). Messages, while it
/// runs:
///   rules RULES   takes new rules. What hangs goes through them as if it came now; what is
///                 delayed waits on.
///   clear         drops all rules
///   rules         answers the rules, with what is left of their counts
///   held          answers how many requests hang and how many are delayed
///   inner TEXT    a message to the wrapped leg
/// Holds at most `max_held` requests; more fail with Errc::limit.
class FaultLeg final : public Leg {
 public:
  static constexpr std::size_t max_held = 4096;

  FaultLeg(std::string uri, std::vector<FaultRule> rules, std::shared_ptr<Leg> inner);
  ~FaultLeg() override;

  std::string uri() const override;
  Bytes size() const noexcept override { return inner_->size(); }
  bool read_only() const noexcept override { return inner_->read_only(); }
  std::string device_name() const override { return inner_->device_name(); }
  Result<void> ready() override { return inner_->ready(); }
  void release_held(Errc status) noexcept override;
  Result<std::string> message(std::string_view text) override;

 private:
  Submit do_submit(Io& io) noexcept override;
  Submit hold(Io& io, const FaultRule& rule, std::unique_lock<std::mutex> lock) noexcept;
  Submit transfer_half(Io& io) noexcept;
  void go_on(Io& io) noexcept;
  void set_rules(std::vector<FaultRule> rules);

  static void half_ended(Io& half) noexcept;

  const std::shared_ptr<Leg> inner_;
  const std::string prefix_;  // of the URI, up to the inner one

  std::mutex mutex_;  // protects what follows
  std::vector<FaultRule> rules_;
  std::vector<Io*> hanging_;
  bool holding_ = true;  // false once released

  DelayedIos delayed_;  // last: its thread uses the rest
};

/// Opens "fault:[RULES]:URI". The wrapped leg is already open.
Result<std::shared_ptr<Leg>> wrap_in_faults(std::string_view uri, std::string_view rules,
                                            std::shared_ptr<Leg> inner);

}  // namespace blockloom
