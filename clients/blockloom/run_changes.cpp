// Verbs that change something.
#include <fmt/format.h>

#include "clients/blockloom/output.hpp"
#include "clients/blockloom/run.hpp"

namespace blockloom::cli {

using rpc::Value;

namespace {

void set_suspend_options(const Command& command, Value& params) {
  if (command.no_flush) params.set("flush", false);
  if (command.timeout_s) params.set("timeout_s", *command.timeout_s);
}

std::string silent(const Value&) {
  return {};
}

/// A verb for each device that is named. All are tried; the first failure decides the status.
Exit call_each(const Command& command, ControlClient& client, std::string_view method,
               const Value& options) {
  Exit exit = Exit::ok;
  Value done = Value::array();
  const std::size_t count = command.devices.empty() ? 1 : command.devices.size();
  for (std::size_t i = 0; i < count; ++i) {
    Value params = device_params(command, i);
    for (const auto& [name, value] : *options.members())
      params.set(name, value);
    Answer answer = client.call(method, params);
    if (answer.failure) {
      const Exit failed = report(command, *answer.failure);
      if (exit == Exit::ok) exit = failed;
      continue;
    }
    done.push(std::move(answer.value));
  }
  if (command.json && exit == Exit::ok) {
    Value value = Value::object();
    value.set("devices", std::move(done));
    print_json(value);
  }
  return exit;
}

/// The table's text, from wherever the command line says it comes.
std::optional<std::string> table_of(const Command& command, Failure& failure) {
  if (command.table) return command.table;
  return read_text(command.file, failure);
}

Exit run_create(const Command& command, ControlClient& client) {
  Value params = Value::object();
  params.set("name", command.new_name);
  if (!command.uuid.empty()) params.set("uuid", command.uuid);
  if (!command.description.empty()) params.set("description", command.description);
  if (command.read_only) params.set("read_only", true);
  if (!command.no_table) {
    Failure failure;
    const auto table = table_of(command, failure);
    if (!table) return report(command, failure);
    params.set("table", *table);
  }
  return call_and_print(command, client, "create", params, silent);
}

Exit run_load(const Command& command, ControlClient& client) {
  Failure failure;
  const auto table = table_of(command, failure);
  if (!table) return report(command, failure);
  Value params = device_params(command);
  params.set("table", *table);
  if (command.read_only) params.set("read_only", true);
  return call_and_print(command, client, "load", params, silent);
}

Exit run_apply(const Command& command, ControlClient& client) {
  Failure failure;
  const auto text = read_text(command.file, failure);
  if (!text) return report(command, failure);
  const bool only_check = command.verb == Verb::check;
  Value params = Value::object();
  params.set("toml", *text)
      .set("file", command.file == "-" ? std::string("standard input") : command.file);
  if (!only_check) set_suspend_options(command, params);
  return call_and_print(command, client, only_check ? "check" : "apply", params,
                        [&](const Value& answer) { return apply_text(answer, only_check); });
}

Exit run_rename(const Command& command, ControlClient& client) {
  Value params = device_params(command);
  if (!command.new_uuid.empty()) {
    params.set("new_uuid", command.new_uuid);
    return call_and_print(command, client, "set_uuid", params, silent);
  }
  params.set("new_name", command.new_name);
  return call_and_print(command, client, "rename", params, silent);
}

Exit run_message(const Command& command, ControlClient& client) {
  Value words = Value::array();
  for (const std::string& word : command.words)
    words.push(word);
  Value params = device_params(command);
  params.set("sector", command.sector).set("words", std::move(words));
  return call_and_print(command, client, "message", params, [](const Value& answer) {
    std::string reply = answer["reply"].text();
    if (!reply.empty() && reply.back() != '\n') reply += '\n';
    return reply;
  });
}

}  // namespace

Exit run_changes(const Command& command, ControlClient& client) {
  Value options = Value::object();
  switch (command.verb) {
    case Verb::create:
      return run_create(command, client);
    case Verb::load:
      return run_load(command, client);
    case Verb::apply:
    case Verb::check:
      return run_apply(command, client);
    case Verb::rename:
      return run_rename(command, client);
    case Verb::message:
      return run_message(command, client);
    case Verb::reload:
      return call_and_print(command, client, "reload", options,
                            [](const Value& answer) { return apply_text(answer, false); });
    case Verb::clear:
      return call_each(command, client, "clear", options);
    case Verb::suspend:
      set_suspend_options(command, options);
      if (command.lease_s) options.set("lease_s", *command.lease_s);
      return call_each(command, client, "suspend", options);
    case Verb::resume:
      set_suspend_options(command, options);
      return call_each(command, client, "resume", options);
    case Verb::remove:
      if (command.deferred) options.set("deferred", true);
      if (command.force) options.set("force", true);
      return call_each(command, client, "remove", options);
    default:
      return report(command, {Exit::usage, "invalid", "a verb without a function"});
  }
}

}  // namespace blockloom::cli
