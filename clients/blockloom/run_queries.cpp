// Verbs that ask and print.
#include "clients/blockloom/output.hpp"
#include "clients/blockloom/run.hpp"

namespace blockloom::cli {

using rpc::Value;

namespace {

/// What all named devices answer, as one answer.
Answer ask_each(const Command& command, ControlClient& client, std::string_view method) {
  Answer all;
  Value devices = Value::array();
  const std::size_t count = command.devices.empty() ? 1 : command.devices.size();
  for (std::size_t i = 0; i < count; ++i) {
    Value params = device_params(command, i);
    if (command.inactive) params.set("inactive", true);
    Answer answer = client.call(method, params);
    if (answer.failure) return answer;
    for (const Value& device : answer.value["devices"].list())
      devices.push(device);
  }
  all.value = Value::object();
  all.value.set("devices", std::move(devices));
  return all;
}

std::string_view method_of(const Command& command) {
  switch (command.verb) {
    case Verb::ls:
      return command.tree ? "tree" : "list";
    case Verb::info:
      return "info";
    case Verb::table:
      return "table";
    case Verb::status:
      return "status";
    case Verb::deps:
      return "deps";
    case Verb::targets:
      return "targets";
    default:
      return "attach_help";
  }
}

std::string text_of(const Command& command, const Value& answer) {
  // As dmsetup: one device that is named needs no name before its lines.
  const bool with_names = command.uuid.empty() && command.devices.size() != 1;
  switch (command.verb) {
    case Verb::ls:
      return command.tree ? tree_text(answer) : ls_text(answer);
    case Verb::info:
      return command.columns ? info_columns(answer, !command.no_headings) : info_text(answer);
    case Verb::table:
    case Verb::status:
      return lines_text(answer, with_names);
    case Verb::deps:
      return deps_text(answer, with_names);
    case Verb::targets:
      return targets_text(answer);
    default:
      return attach_text(answer);
  }
}

}  // namespace

Exit run_queries(const Command& command, ControlClient& client) {
  const bool many = command.verb == Verb::info || command.verb == Verb::table ||
                    command.verb == Verb::status || command.verb == Verb::deps;
  const std::string_view method = method_of(command);
  const Answer answer =
      many ? ask_each(command, client, method) : client.call(method, device_params(command));
  if (answer.failure) return report(command, *answer.failure);
  if (command.json)
    print_json(answer.value);
  else
    print(text_of(command, answer.value));
  return Exit::ok;
}

}  // namespace blockloom::cli
