// The iSCSI target: what it serves to whom.
#include <fmt/format.h>

#include "clients/blockloom/output.hpp"
#include "clients/blockloom/run.hpp"

namespace blockloom::cli {

using rpc::Value;

namespace {

std::string size_of(const Value& bytes) {
  return fmt::format("{:.1f} MiB", static_cast<double>(bytes.whole()) / (1 << 20));
}

std::string sessions_text(const Value& answer) {
  std::string text;
  for (const Value& s : answer["sessions"].list()) {
    const bool header = s["header_digest"].flag(), data = s["data_digest"].flag();
    text +=
        fmt::format("{}: {} from {}\n", s["tsih"].whole(), s["initiator"].text(), s["peer"].text());
    text += fmt::format("  target {}, by {}, isid {}{}{}\n",
                        s["discovery"].flag() ? "(discovery)" : s["target"].text(),
                        s["portal"].text(), s["isid"].text(),
                        s["chap_user"].text().empty() ? "" : ", CHAP " + s["chap_user"].text(),
                        header && data ? ", digests"
                        : header       ? ", header digest"
                        : data         ? ", data digest"
                                       : "");
    text += fmt::format("  {} commands, {} in flight, {} read, {} written, for {}\n",
                        s["commands"].whole(), s["in_flight"].whole(), size_of(s["read_bytes"]),
                        size_of(s["write_bytes"]), time_text(s["connected_s"].real()));
  }
  return text.empty() ? "No sessions\n" : text;
}

std::string targets_text_of(const Value& answer) {
  std::string text;
  for (const Value& t : answer["targets"].list())
    text += fmt::format("{}: {} LUN{}, {} session{}{}{}\n", t["name"].text(), t["luns"].whole(),
                        t["luns"].whole() == 1 ? "" : "s", t["sessions"].whole(),
                        t["sessions"].whole() == 1 ? "" : "s",
                        t["all_devices"].flag() ? ", every device" : "",
                        t["chap"].flag() ? ", CHAP" : "");
  for (const Value& portal : answer["portals"].list())
    text += fmt::format("portal {}\n", portal.text());
  return text;
}

std::string luns_text(const Value& answer) {
  std::string text;
  for (const Value& l : answer["luns"].list()) {
    text += fmt::format("{} {}: {}", l["target"].text(), l["lun"].whole(), l["device"].text());
    if (!l["failure"].text().empty())
      text += fmt::format(", not served: {}\n", l["failure"].text());
    else
      text += fmt::format(" {}, {} blocks of {}{}\n", l["identifier"].text(), l["blocks"].whole(),
                          l["block_size"].whole(), l["read_only"].flag() ? ", read-only" : "");
  }
  return text.empty() ? "No LUNs\n" : text;
}

std::string reservations_text(const Value& answer) {
  std::string text;
  for (const Value& l : answer["luns"].list()) {
    if (l["reservation"].text().empty() && l["registrations"].list().empty()) continue;
    text += fmt::format(
        "{} {} ({}): {}{}{}\n", l["target"].text(), l["lun"].whole(), l["device"].text(),
        l["reservation"].text().empty() ? "no reservation" : l["reservation"].text(),
        l["reserve_holder"].text().empty() ? "" : " of " + l["reserve_holder"].text(),
        l["aptpl"].flag() ? ", kept over power loss" : "");
    for (const Value& r : l["registrations"].list())
      text += fmt::format("  {} {}{}\n", r["key"].text(), r["initiator"].text(),
                          r["holder"].flag() ? ", holds it" : "");
  }
  return text.empty() ? "No reservations\n" : text;
}

std::string iscsi_text(const Command& command, const Value& answer) {
  if (command.what == "sessions") return sessions_text(answer);
  if (command.what == "targets") return targets_text_of(answer);
  if (command.what == "luns") return luns_text(answer);
  if (command.what == "reservations") return reservations_text(answer);
  return fmt::format("{} session{} told to end\n", answer["kicked"].whole(),
                     answer["kicked"].whole() == 1 ? "" : "s");
}

}  // namespace

Exit run_iscsi(const Command& command, ControlClient& client) {
  Value params = Value::object();
  if (command.tsih != 0) params.set("tsih", command.tsih);
  if (!command.initiator.empty()) params.set("initiator", command.initiator);
  if (!command.target.empty()) params.set("target", command.target);
  if (command.all) params.set("all", true);
  const Answer answer = client.call("iscsi_" + command.what, params);
  if (answer.failure) return report(command, *answer.failure);
  if (command.json)
    print_json(answer.value);
  else
    print(iscsi_text(command, answer.value));
  return Exit::ok;
}

}  // namespace blockloom::cli
