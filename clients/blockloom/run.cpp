#include "clients/blockloom/run.hpp"

#include <cerrno>
#include <cstdio>
#include <cstring>

#include <fmt/format.h>

#include "clients/blockloom/output.hpp"

namespace blockloom::cli {

using rpc::Value;

void print(std::string_view text) {
  std::fwrite(text.data(), 1, text.size(), stdout);
  std::fflush(stdout);
}

void print_json(const Value& value) {
  print(rpc::to_text(value, 2) + "\n");
}

Exit call_and_print(const Command& command, ControlClient& client, std::string_view method,
                    const Value& params, const std::function<std::string(const Value&)>& text) {
  const Answer answer = client.call(method, params);
  if (answer.failure) return report(command, *answer.failure);
  if (command.json)
    print_json(answer.value);
  else
    print(text(answer.value));
  return Exit::ok;
}

Exit report(const Command& command, const Failure& failure) {
  const std::string text = fmt::format("blockloom: {}\n", failure.message);
  std::fwrite(text.data(), 1, text.size(), stderr);
  if (command.json) {
    Value error = Value::object();
    error.set("errc", failure.errc).set("message", failure.message);
    Value value = Value::object();
    value.set("error", std::move(error));
    print_json(value);
  }
  return failure.exit;
}

Value device_params(const Command& command, std::size_t index) {
  Value params = Value::object();
  if (index < command.devices.size())
    params.set("device", command.devices[index]);
  else if (!command.uuid.empty() && command.verb != Verb::create)
    params.set("uuid", command.uuid);
  return params;
}

std::optional<std::string> read_text(const std::string& file, Failure& failure) {
  constexpr std::size_t longest = std::size_t{16} << 20;
  const bool standard = file.empty() || file == "-";
  const std::string name = standard ? "standard input" : file;
  std::FILE* stream = standard ? stdin : std::fopen(file.c_str(), "re");
  const auto failed = [&](const std::string& why) {
    if (stream && !standard) std::fclose(stream);
    failure = {Exit::failed, "io", fmt::format("{}: {}", name, why)};
    return std::nullopt;
  };
  if (!stream) return failed(std::strerror(errno));
  std::string text;
  char bytes[65536];
  while (const std::size_t n = std::fread(bytes, 1, sizeof bytes, stream)) {
    text.append(bytes, n);
    if (text.size() > longest) return failed("more than 16 MiB");
  }
  if (std::ferror(stream)) return failed(std::strerror(errno));
  if (!standard) std::fclose(stream);
  return text;
}

namespace {

Exit run_version(const Command& command) {
  Failure failure;
  const auto client = ControlClient::connect(command.socket, failure);
  Answer answer;
  if (client)
    answer = client->call("version");
  else
    answer.failure = failure;
  if (command.json && !answer.failure) {
    answer.value.set("client_version", BLOCKLOOM_VERSION);
    print_json(answer.value);
    return Exit::ok;
  }
  if (!command.json) print("Client version:    " BLOCKLOOM_VERSION "\n");
  if (answer.failure) return report(command, *answer.failure);
  print(fmt::format("Server version:    {}\n", answer.value["version"].text()));
  return Exit::ok;
}

}  // namespace

Exit run(const Command& command) {
  if (command.verb == Verb::version) return run_version(command);
  Failure failure;
  const auto client = ControlClient::connect(command.socket, failure);
  if (!client) return report(command, failure);
  switch (command.verb) {
    case Verb::leg:
    case Verb::migrate:
    case Verb::mirror_status:
      return run_mirrors(command, *client);
    case Verb::wait:
      return run_wait(command, *client);
    case Verb::events:
      return run_events(command, *client);
    case Verb::top:
      return run_top(command, *client);
    case Verb::iscsi:
      return run_iscsi(command, *client);
    case Verb::dump:
      return run_dump(command, *client);
    case Verb::ls:
    case Verb::info:
    case Verb::table:
    case Verb::status:
    case Verb::deps:
    case Verb::targets:
    case Verb::attach_help:
      return run_queries(command, *client);
    default:
      return run_changes(command, *client);
  }
}

}  // namespace blockloom::cli
