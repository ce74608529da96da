// Verbs of mirrors: who the legs are, how far a copy is, moving a leg while clients write.
#include <algorithm>
#include <chrono>
#include <cmath>
#include <csignal>
#include <thread>

#include <fmt/format.h>
#include <unistd.h>

#include "clients/blockloom/output.hpp"
#include "clients/blockloom/run.hpp"
#include "server/base/size_text.hpp"

namespace blockloom::cli {

using rpc::Value;

namespace {

constexpr auto poll_pause = std::chrono::milliseconds(200);

volatile std::sig_atomic_t interrupted = 0;

/// "[########........] 51.2 %  640.0 MiB/s  3 s left"
std::string bar_text(const Value& mirror, double ratio) {
  constexpr int width = 30;
  const int full = static_cast<int>(std::clamp(ratio, 0.0, 1.0) * width);
  const Value& resync = mirror["details"]["resync"];
  std::string text = fmt::format("[{:#<{}}{:.<{}}] {:5.1f} %", "", full, "", width - full,
                                 std::floor(ratio * 1000) / 10);
  if (const auto speed = resync["bytes_per_second"].whole(); speed > 0)
    text += fmt::format("  {}/s", size_text(speed));
  if (resync["paused"].flag())
    text += "  paused";
  else if (const Value* left = resync.find("seconds_left"))
    text += fmt::format("  {:.0f} s left", std::ceil(left->real()));
  return text;
}

/// A line that is written over itself on a terminal; elsewhere only the last one is printed.
class Progress {
 public:
  explicit Progress(bool wanted) : live_(wanted && ::isatty(STDOUT_FILENO) == 1) {}
  void show(const std::string& line) {
    last_ = line;
    if (live_) print("\r\033[K" + line);
  }
  void end() {
    if (live_) print("\n");
  }
  const std::string& last() const { return last_; }

 private:
  const bool live_;
  std::string last_;
};

/// The first mirror that is not in sync; null: all are.
const Value* behind(const Value& answer) {
  for (const Value& mirror : answer["mirrors"].list())
    if (!mirror["details"]["in_sync"].flag()) return &mirror;
  return nullptr;
}

double sync_ratio(const Value& mirror) {
  const double regions = mirror["details"]["regions"].real();
  return regions > 0 ? mirror["details"]["in_sync_regions"].real() / regions : 0;
}

std::string leg_line(std::size_t number, const Value& leg, std::uint64_t region_size) {
  std::string text = fmt::format("  {}  {}  {:<13} {}", number, leg["health"].text(),
                                 leg["state"].text(), leg["uri"].text());
  if (const auto stale = leg["stale_regions"].whole(); stale > 0)
    text += fmt::format("  {} behind", size_text(stale * region_size));
  if (const auto late = leg["late_writes"].whole(); late > 0)
    text += fmt::format("  {} late write{}", late, late == 1 ? "" : "s");
  if (const auto errors = leg["errors"].whole(); errors > 0)
    text += fmt::format("  {} error{}", errors, errors == 1 ? "" : "s");
  if (const auto timeouts = leg["timeouts"].whole(); timeouts > 0)
    text += fmt::format("  {} timeout{}", timeouts, timeouts == 1 ? "" : "s");
  if (leg["failed_by_hand"].flag()) text += "  failed by hand";
  if (leg["unflushed_only_here"].flag()) text += "  flushes wait for it";
  text += '\n';
  if (const std::string reason = leg["reason"].text(); !reason.empty())
    text += fmt::format("     {}\n", reason);
  return text;
}

/// What on_all_failed=queue holds back, and why.
std::string waiting_line(const Value& details) {
  const auto count = details["waiting_for_leg"].whole();
  if (count == 0) return {};
  const Value& waiting = details["waiting"];
  std::string text = fmt::format("  {} request{}, {} of them flushes, wait for a leg", count,
                                 count == 1 ? "" : "s", waiting["flushes"].whole());
  if (const std::string error = waiting["error"].text(); !error.empty())
    text += fmt::format("; the last one failed at byte {}: {}", waiting["offset"].whole(), error);
  return text +
         fmt::format("; the first is given up in {:.0f} s\n", waiting["given_up_in_s"].real());
}

std::string mirror_text(const Value& answer) {
  std::string text;
  for (const Value& mirror : answer["mirrors"].list()) {
    const Value& d = mirror["details"];
    text += fmt::format("{} at sector {}: {}, {} of {} regions in sync, {} dirty, epoch {}\n",
                        answer["name"].text(), mirror["start"].whole(), d["phase"].text(),
                        d["in_sync_regions"].whole(), d["regions"].whole(),
                        d["dirty_regions"].whole(), d["epoch"].whole());
    if (const std::string refusal = d["refusal"].text(); !refusal.empty())
      text += fmt::format("  {}\n", refusal);
    std::size_t number = 0;
    for (const Value& leg : d["legs"].list())
      text += leg_line(number++, leg, d["region_size"].whole());
    text += waiting_line(d);
    if (d["resync"]["running"].flag())
      text += fmt::format("  resync {}\n", bar_text(mirror, sync_ratio(mirror)));
    if (d["scrub"]["running"].flag())
      text += fmt::format("  scrub at {}, {} mismatches\n", size_text(d["scrub"]["next"].whole()),
                          d["scrub"]["mismatches"].whole());
    for (const Value& m : d["scrub"]["list"].list())
      text += fmt::format("  differs: {} bytes at {}\n", m["length"].whole(), m["offset"].whole());
    if (d["log"]["failing"].flag()) text += "  the log cannot be written\n";
  }
  return text;
}

Exit run_leg(const Command& command, ControlClient& client) {
  Value params = device_params(command);
  const std::string& action = command.words.front();
  std::size_t word = 1;
  if (action != "add") params.set("leg", command.words[word++]);
  if (action == "add" || action == "replace") {
    params.set("uri", command.words[word]);
    if (command.leg_offset) params.set("offset", *command.leg_offset);
    if (command.leg_timeout_ms) params.set("timeout_ms", *command.leg_timeout_ms);
  }
  if (command.timeout_s && action != "fail" && action != "readd" && action != "vouch")
    params.set("timeout_s", *command.timeout_s);
  const Answer answer = client.call("leg_" + action, params);
  if (answer.failure) return report(command, *answer.failure);
  if (command.json) print_json(answer.value);
  return Exit::ok;
}

/// What `migrate` still has of its new leg: empty when it is in sync.
std::string leg_state(const Value& answer, const std::string& uri, double& ratio,
                      const Value** mirror) {
  for (const Value& m : answer["mirrors"].list())
    for (const Value& leg : m["details"]["legs"].list()) {
      if (leg["uri"].text() != uri) continue;
      *mirror = &m;
      const double regions = m["details"]["regions"].real();
      ratio = regions > 0 ? 1 - leg["stale_regions"].real() / regions : 0;
      if (leg["state"].text() == "up" && leg["stale_regions"].whole() == 0) return {};
      return leg["state"].text();
    }
  return "gone";
}

Exit run_migrate(const Command& command, ControlClient& client) {
  const Value device = device_params(command);
  Value params = device;
  params.set("uri", command.migrate_to);
  if (command.leg_offset) params.set("offset", *command.leg_offset);
  if (command.leg_timeout_ms) params.set("timeout_ms", *command.leg_timeout_ms);
  Answer answer = client.call("leg_add", params);
  if (answer.failure) return report(command, *answer.failure);
  const auto back_out = [&](Failure failure) {
    // The new leg leaves again: what was there before serves on.
    Value leave = device;
    leave.set("leg", command.migrate_to);
    const Answer left = client.call("leg_remove", leave);
    failure.message += left.failure ? "; and the new leg stays: " + left.failure->message
                                    : "; the new leg was dropped again";
    return report(command, failure);
  };
  struct sigaction on_interrupt {};
  on_interrupt.sa_handler = [](int) { interrupted = 1; };
  ::sigaction(SIGINT, &on_interrupt, nullptr);
  Progress progress(!command.json);
  const auto give_up = std::chrono::steady_clock::now() +
                       std::chrono::duration<double>(command.timeout_s.value_or(1e8));
  for (;;) {
    answer = client.call("mirror_status", device);
    if (answer.failure) return report(command, *answer.failure);
    double ratio = 0;
    const Value* mirror = nullptr;
    const std::string state = leg_state(answer.value, command.migrate_to, ratio, &mirror);
    if (mirror == nullptr)
      return report(command, {Exit::failed, "not_found", "the new leg has left the mirror"});
    progress.show(bar_text(*mirror, ratio));
    if (state.empty()) break;
    if (interrupted != 0) {
      progress.end();
      return back_out({Exit::failed, "cancelled", "interrupted"});
    }
    if (std::chrono::steady_clock::now() >= give_up) {
      progress.end();
      return back_out({Exit::timed_out, "timed_out",
                       fmt::format("the new leg is {} and not in sync in time", state)});
    }
    std::this_thread::sleep_for(poll_pause);
  }
  progress.end();
  Value leave = device;
  leave.set("leg", command.migrate_from);
  answer = client.call("leg_remove", leave);
  if (answer.failure) return report(command, *answer.failure);
  if (command.json)
    print_json(answer.value);
  else
    print(fmt::format("'{}' is in sync and serves; '{}' has left\n", command.migrate_to,
                      command.migrate_from));
  return Exit::ok;
}

}  // namespace

Exit wait_in_sync(const Command& command, ControlClient& client) {
  const Value params = device_params(command);
  const auto give_up = std::chrono::steady_clock::now() +
                       std::chrono::duration<double>(command.timeout_s.value_or(1e8));
  Progress progress(!command.json);
  for (;;) {
    const Answer answer = client.call("mirror_status", params);
    if (answer.failure) return report(command, *answer.failure);
    const Value* mirror = behind(answer.value);
    if (mirror != nullptr) progress.show(bar_text(*mirror, sync_ratio(*mirror)));
    if (mirror == nullptr) {
      if (!progress.last().empty()) progress.end();
      if (command.json) print_json(answer.value);
      return Exit::ok;
    }
    if (std::chrono::steady_clock::now() >= give_up) {
      progress.end();
      return report(command, {Exit::timed_out, "timed_out",
                              fmt::format("not in sync in time: {} of {} regions",
                                          (*mirror)["details"]["in_sync_regions"].whole(),
                                          (*mirror)["details"]["regions"].whole())});
    }
    std::this_thread::sleep_for(poll_pause);
  }
}

Exit run_mirrors(const Command& command, ControlClient& client) {
  if (command.verb == Verb::leg) return run_leg(command, client);
  if (command.verb == Verb::migrate) return run_migrate(command, client);
  const Answer answer = client.call("mirror_status", device_params(command));
  if (answer.failure) return report(command, *answer.failure);
  if (command.json)
    print_json(answer.value);
  else
    print(mirror_text(answer.value));
  return Exit::ok;
}

}  // namespace blockloom::cli
