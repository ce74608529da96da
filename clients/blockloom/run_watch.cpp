// Verbs that take their time: wait, events, top.
#include <chrono>
#include <cstdio>
#include <thread>

#include <fmt/format.h>
#include <unistd.h>

#include "clients/blockloom/output.hpp"
#include "clients/blockloom/run.hpp"

namespace blockloom::cli {

using rpc::Value;

namespace {

void print_event(const Command& command, const Value& event) {
  // One object a line: what follows an event stream reads lines.
  print(command.json ? rpc::to_text(event) + "\n" : event_text(event));
}

void print_lost(const Command& command, std::uint64_t lost) {
  if (lost == 0) return;
  const std::string text = fmt::format("blockloom: {} events are no longer kept\n", lost);
  std::fwrite(text.data(), 1, text.size(), stderr);
  if (!command.json) return;
  Value value = Value::object();
  value.set("lost", lost);
  print(rpc::to_text(value) + "\n");
}

}  // namespace

Exit run_wait(const Command& command, ControlClient& client) {
  if (command.in_sync) return wait_in_sync(command, client);
  Value params = device_params(command);
  if (command.event_number) params.set("event_number", *command.event_number);
  if (command.timeout_s) params.set("timeout_s", *command.timeout_s);
  const Answer answer = client.call("wait", params);
  if (answer.failure) return report(command, *answer.failure);
  if (command.json) print_json(answer.value);
  return Exit::ok;
}

Exit run_events(const Command& command, ControlClient& client) {
  Value params = Value::object();
  if (!command.devices.empty()) params.set("device", command.devices.front());
  if (command.since) params.set("since", *command.since);
  if (command.follow) params.set("follow", true);
  const Answer answer = client.call("events", params);
  if (answer.failure) return report(command, *answer.failure);
  print_lost(command, answer.value["lost"].whole());
  for (const Value& event : answer.value["events"].list())
    print_event(command, event);
  while (command.follow) {
    std::string method;
    Value event;
    Failure failure;
    if (!client.notification(method, event, failure)) return report(command, failure);
    if (method == "event") print_event(command, event);
    if (method == "events_lost") print_lost(command, event["lost"].whole());
    // Whoever read the events has gone.
    if (std::ferror(stdout)) return Exit::failed;
  }
  return Exit::ok;
}

Exit run_top(const Command& command, ControlClient& client) {
  const Value params = device_params(command);
  const bool clear = !command.once && !command.json && ::isatty(STDOUT_FILENO) == 1;
  Answer before = client.call("stats", params);
  if (before.failure) return report(command, *before.failure);
  for (;;) {
    std::this_thread::sleep_for(std::chrono::duration<double>(command.interval_s));
    Answer after = client.call("stats", params);
    if (after.failure) return report(command, *after.failure);
    const Value rates = rates_of(before.value, after.value);
    if (command.json)
      print(rpc::to_text(rates) + "\n");
    else
      print((clear ? "\033[H\033[2J" : "") + top_text(rates) + (clear || command.once ? "" : "\n"));
    if (command.once) return Exit::ok;
    if (std::ferror(stdout)) return Exit::failed;
    before = std::move(after);
  }
}

}  // namespace blockloom::cli
