#include "clients/blockloom/output_dump.hpp"

#include <algorithm>
#include <cmath>
#include <ctime>
#include <vector>

#include <fmt/format.h>

#include "server/base/size_text.hpp"

namespace blockloom::cli {

using rpc::Value;

namespace {

std::string time_of(double seconds) {
  if (!(seconds > 0)) return "-";
  const auto whole = static_cast<std::time_t>(seconds);
  std::tm local{};
  ::localtime_r(&whole, &local);
  return fmt::format("{:04}-{:02}-{:02} {:02}:{:02}:{:02}", local.tm_year + 1900, local.tm_mon + 1,
                     local.tm_mday, local.tm_hour, local.tm_min, local.tm_sec);
}

std::string state_of(const Value& dump) {
  const std::string state = dump["state"].text(), reason = dump["reason"].text();
  if (state == "holes") return "complete with holes";
  return reason.empty() ? state : fmt::format("{} ({})", state, reason);
}

/// Rows under a heading, each column as wide as its widest; the last one as it is.
std::string table(const std::vector<std::vector<std::string>>& rows) {
  std::vector<std::size_t> widths;
  for (const auto& row : rows)
    for (std::size_t i = 0; i < row.size(); ++i) {
      if (widths.size() <= i) widths.push_back(0);
      widths[i] = std::max(widths[i], row[i].size());
    }
  std::string text;
  for (const auto& row : rows) {
    std::string line;
    for (std::size_t i = 0; i < row.size(); ++i)
      line += i + 1 == row.size() ? row[i] : fmt::format("{:<{}}  ", row[i], widths[i]);
    line.erase(line.find_last_not_of(' ') + 1);
    text += line + "\n";
  }
  return text;
}

void row(std::string& text, std::string_view name, const std::string& value) {
  if (!value.empty()) text += fmt::format("{:<14} {}\n", name, value);
}

std::string port_of(const Value& listeners, const char* standard) {
  if (listeners.list().empty()) return standard;
  const std::string text = listeners.list().front().text();
  return text.substr(text.rfind(':') + 1);
}

}  // namespace

std::string dumps_text(const Value& answer) {
  if (answer["dumps"].list().empty()) return "No dumps found\n";
  std::vector<std::vector<std::string>> rows{{"DUMP", "HOST", "SIZE", "STATE", "PANIC"}};
  for (const Value& dump : answer["dumps"].list())
    rows.push_back({dump["id"].text() + (dump["pinned"].flag() ? "*" : ""), dump["hostname"].text(),
                    size_text(dump["bytes"].whole()), state_of(dump), dump["panic"].text()});
  return table(rows);
}

std::string dump_text(const Value& dump) {
  std::string text;
  row(text, "Dump", dump["id"].text());
  row(text, "State", state_of(dump));
  row(text, "Detail", dump["detail"].text());
  row(text, "Host", fmt::format("{} [{}]", dump["hostname"].text(), dump["address"].text()));
  row(text, "Kernel", dump["kernel"].text());
  row(text, "Machine", dump["machine"].text());
  row(text, "Panic", dump["panic"].text());
  row(text, "Signature", dump["signature"].text());
  row(text, "Crashed", dump["crash_time"].real() > 0 ? time_of(dump["crash_time"].real()) : "");
  row(text, "Received",
      fmt::format("{} to {}, by {}", time_of(dump["started"].real()),
                  time_of(dump["finished"].real()), dump["protocol"].text()));
  const std::uint64_t length = dump["length"].whole();
  row(text, "Bytes",
      fmt::format("{}{}", dump["bytes"].whole(), length != 0 ? fmt::format(" of {}", length) : ""));
  for (const Value& hole : dump["holes"].list())
    row(text, "Hole",
        fmt::format("{} bytes at {}", hole["length"].whole(), hole["offset"].whole()));
  std::string kind = dump["kind"].text();
  if (!dump["compression"].text().empty()) kind += ", " + dump["compression"].text();
  if (dump["encrypted"].flag()) kind += ", encrypted";
  row(text, "Image", kind);
  for (const Value& run : dump["runs"].list())
    row(text, "At", run["leg"].text());
  row(text, "SHA-256", dump["sha256"].text());
  row(text, "Pinned", dump["pinned"].flag() ? "yes" : "");
  for (const Value& lost : dump["lost_targets"].list())
    row(text, "Lost copy", lost.text());
  return text;
}

std::string dump_groups_text(const Value& answer) {
  if (answer["groups"].list().empty()) return "No dumps found\n";
  std::vector<std::vector<std::string>> rows{{"COUNT", "HOSTS", "LAST", "NEWEST", "PANIC"}};
  for (const Value& group : answer["groups"].list())
    rows.push_back({std::to_string(group["count"].whole()),
                    std::to_string(group["hosts"].list().size()), time_of(group["last"].real()),
                    group["newest"].text(), group["signature"].text()});
  return table(rows);
}

std::string dump_info_text(const Value& answer) {
  std::string text;
  row(text, "Store", answer["store"].text());
  if (!answer["trouble"].text().empty()) row(text, "Trouble", answer["trouble"].text());
  row(text, "Dumps",
      fmt::format("{}, {}", answer["dumps"].whole(), size_text(answer["bytes"].whole())));
  row(text, "Space",
      fmt::format("{} free of {}", size_text(answer["free_bytes"].whole()),
                  size_text(answer["total_bytes"].whole())));
  row(text, "Sessions",
      fmt::format("{} of {}", answer["sessions"].whole(), answer["sessions_max"].whole()));
  for (const Value& listener : answer["netdump_listeners"].list())
    row(text, "Netdump", "udp:" + listener.text());
  for (const Value& listener : answer["stream_listeners"].list())
    row(text, "Stream", "tcp:" + listener.text());
  for (const Value& listener : answer["netconsole_listeners"].list())
    row(text, "Netconsole", "udp:" + listener.text());
  return text;
}

std::string dump_enable_text(const Value& info, const std::string& host) {
  const std::string stream = port_of(info["stream_listeners"], "20030");
  const std::string console = port_of(info["netconsole_listeners"], "6666");
  std::string text;
  text += fmt::format(
      "# FreeBSD (netdump(4)); for good: dumpdev=\"em0\" and dumpon_flags in /etc/rc.conf.\n"
      "# CLIENT and GATEWAY are addresses of the machine that may crash; -z or -Z compresses.\n"
      "dumpon -s {0} -c CLIENT -g GATEWAY -Z em0\n\n",
      host);
  if (port_of(info["netdump_listeners"], "20023") != "20023")
    text += "# FreeBSD sends to port 20023 only: this server listens on another.\n\n";
  text += fmt::format(
      "# Debian, Ubuntu: kdump-tools, with blockloom-dump in the capture kernel.\n"
      "apt-get install kdump-tools blockloom-dump\n"
      "blockloom-dump install --to {0}:{1}\n\n"
      "# Fedora, RHEL and like them: kdump with the dracut module.\n"
      "dnf install kexec-tools blockloom-dump\n"
      "blockloom-dump install --to {0}:{1}\n\n"
      "# Any Linux with a capture kernel, by hand in it:\n"
      "blockloom-dump send --to {0}:{1} /proc/vmcore\n"
      "makedumpfile -F -l -d 31 /proc/vmcore | blockloom-dump send --to {0}:{1} -\n\n"
      "# netconsole, the last words (DEVICE and GATEWAY-MAC are the machine's):\n"
      "modprobe netconsole netconsole=+6665@/DEVICE,{2}@{0}/GATEWAY-MAC\n",
      host, stream, console);
  return text;
}

}  // namespace blockloom::cli
