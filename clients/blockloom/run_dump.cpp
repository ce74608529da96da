// blockloom dump …
#include <cerrno>
#include <cstdio>
#include <cstring>
#include <string>

#include <fcntl.h>
#include <fmt/format.h>
#include <unistd.h>

#include "clients/blockloom/output.hpp"
#include "clients/blockloom/output_dump.hpp"
#include "clients/blockloom/run.hpp"

namespace blockloom::cli {

using rpc::Value;

namespace {

Value dump_param(const std::string& dump) {
  return Value::object().set("dump", dump);
}

/// For each dump that is named; with --json a list of the answers.
Exit each(const Command& command, ControlClient& client, std::string_view method, Value params,
          std::string (*text)(const Value&)) {
  Value all = Value::array();
  Exit exit = Exit::ok;
  for (const std::string& dump : command.dumps) {
    const Answer answer = client.call(method, params.set("dump", dump));
    if (answer.failure) return report(command, *answer.failure);
    if (const bool* good = answer.value["good"].boolean(); good != nullptr && !*good)
      exit = Exit::failed;
    if (!command.json) print(text(answer.value));
    all.push(answer.value);
  }
  if (command.json) print_json(Value::object().set("dumps", std::move(all)));
  return exit;
}

std::string id_line(const Value& answer) {
  return answer["id"].text() + "\n";
}

std::string verdict_line(const Value& answer) {
  if (answer["good"].flag())
    return fmt::format("{}: good, {}\n", answer["id"].text(), answer["sha256"].text());
  return fmt::format("{}: BAD: {}\n", answer["id"].text(), answer["problem"].text());
}

std::string raw_text(const Value& answer) {
  return answer["text"].text();
}

bool decode_base64(const std::string& text, std::string& out) {
  const auto value = [](char c) -> int {
    if (c >= 'A' && c <= 'Z') return c - 'A';
    if (c >= 'a' && c <= 'z') return c - 'a' + 26;
    if (c >= '0' && c <= '9') return c - '0' + 52;
    return c == '+' ? 62 : c == '/' ? 63 : -1;
  };
  out.clear();
  std::uint32_t word = 0;
  int bits = 0;
  for (const char c : text) {
    if (c == '=') break;
    const int v = value(c);
    if (v < 0) return false;
    word = word << 6 | static_cast<std::uint32_t>(v);
    bits += 6;
    if (bits >= 8) {
      bits -= 8;
      out += static_cast<char>(word >> bits & 0xff);
    }
  }
  return true;
}

bool write_out(int fd, std::string_view bytes) {
  while (!bytes.empty()) {
    const ssize_t n = ::write(fd, bytes.data(), bytes.size());
    if (n < 0 && errno == EINTR) continue;
    if (n <= 0) return false;
    bytes.remove_prefix(static_cast<std::size_t>(n));
  }
  return true;
}

/// Copies the image in pieces. A file is 0600, and is not there before it is whole.
Exit run_get(const Command& command, ControlClient& client) {
  Answer shown = client.call("dump_show", dump_param(command.dumps.front()));
  if (shown.failure) return report(command, *shown.failure);
  const std::string id = shown.value["id"].text();
  std::string path = command.output;
  if (path.empty()) {
    std::string image = shown.value["image"].text();
    if (image.empty()) image = "vmcore-incomplete";
    path = fmt::format("{}-{}-{}", shown.value["host"].text(), shown.value["time"].text(), image);
  }
  const bool standard = path == "-";
  const std::string temporary = path + ".part";
  const auto failed = [&](const std::string& why) {
    if (!standard) ::unlink(temporary.c_str());
    return report(command, {Exit::failed, "io", fmt::format("{}: {}", path, why)});
  };
  const int fd = standard
                     ? STDOUT_FILENO
                     : ::open(temporary.c_str(), O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
  if (fd < 0) return failed(std::strerror(errno));
  std::uint64_t at = 0;
  for (std::string bytes;;) {
    const Answer answer = client.call("dump_read", dump_param(id).set("offset", at));
    if (answer.failure) {
      if (!standard) ::unlink(temporary.c_str());
      return report(command, *answer.failure);
    }
    if (!decode_base64(answer.value["base64"].text(), bytes)) return failed("a broken answer");
    if (bytes.empty()) break;
    if (!write_out(fd, bytes)) return failed(std::strerror(errno));
    at += bytes.size();
  }
  if (standard) return Exit::ok;
  if (::fsync(fd) != 0 || ::close(fd) != 0 || ::rename(temporary.c_str(), path.c_str()) != 0)
    return failed(std::strerror(errno));
  if (command.json)
    print_json(Value::object().set("id", id).set("file", path).set("bytes", at));
  else
    print(fmt::format("{}\n", path));
  return Exit::ok;
}

Exit run_watch(const Command& command, ControlClient& client) {
  const Answer answer = client.call("events", Value::object().set("follow", true));
  if (answer.failure) return report(command, *answer.failure);
  const auto show = [&](const Value& event) {
    if (event["kind"].text().starts_with("dump_"))
      print(command.json ? rpc::to_text(event) + "\n" : event_text(event));
  };
  for (const Value& event : answer.value["events"].list())
    show(event);
  for (;;) {
    std::string method;
    Value event;
    Failure failure;
    if (!client.notification(method, event, failure)) return report(command, failure);
    if (method == "event") show(event);
    if (std::ferror(stdout)) return Exit::failed;
  }
}

}  // namespace

Exit run_dump(const Command& command, ControlClient& client) {
  switch (command.dump_verb) {
    case DumpVerb::ls: {
      Value params = Value::object();
      if (!command.dumps.empty()) params.set("host", command.dumps.front());
      return call_and_print(command, client, "dump_list", params, dumps_text);
    }
    case DumpVerb::show:
      return call_and_print(command, client, "dump_show", dump_param(command.dumps.front()),
                            dump_text);
    case DumpVerb::dmesg:
      return call_and_print(command, client, "dump_text",
                            dump_param(command.dumps.front())
                                .set("name", command.netconsole ? "netconsole.log" : "dmesg.txt"),
                            raw_text);
    case DumpVerb::get:
      return run_get(command, client);
    case DumpVerb::verify:
      return each(command, client, "dump_verify", Value::object(), verdict_line);
    case DumpVerb::pin:
      return each(command, client, "dump_pin", Value::object().set("pinned", !command.unpin),
                  id_line);
    case DumpVerb::rm:
      return each(command, client, "dump_remove", Value::object(), id_line);
    case DumpVerb::import: {
      Value params = Value::object().set("device", command.dumps.front());
      if (!command.host.empty()) params.set("host", command.host);
      return call_and_print(command, client, "dump_import", params, dump_text);
    }
    case DumpVerb::format:
      return call_and_print(command, client, "dump_format",
                            Value::object().set("device", command.dumps.front()),
                            [](const Value&) { return std::string(); });
    case DumpVerb::watch:
      return run_watch(command, client);
    case DumpVerb::groups:
      return call_and_print(command, client, "dump_groups", Value::object(), dump_groups_text);
    case DumpVerb::info:
      return call_and_print(command, client, "dump_info", Value::object(), dump_info_text);
    case DumpVerb::test: {
      Value params = Value::object();
      if (command.timeout_s) params.set("timeout_s", *command.timeout_s);
      return call_and_print(command, client, "dump_test", params, dump_text);
    }
    case DumpVerb::enable_help: {
      const Answer answer = client.call("dump_info");
      if (answer.failure) return report(command, *answer.failure);
      print(dump_enable_text(answer.value, command.dumps.front()));
      return Exit::ok;
    }
  }
  return Exit::usage;
}

}  // namespace blockloom::cli
