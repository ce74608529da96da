#include "clients/blockloom/output.hpp"

#include <ctime>
#include <map>
#include <set>
#include <vector>

#include <fmt/format.h>

namespace blockloom::cli {

using rpc::Value;

namespace {

constexpr const char* no_devices = "No devices found\n";

std::string number_of(const Value& device) {
  return fmt::format("({}:{})", major_number, device["minor"].whole());
}

/// Draws one device and what it stands on.
class Tree {
 public:
  explicit Tree(const Value& answer) {
    for (const Value& device : answer["devices"].list())
      by_name_.emplace(device["name"].text(), &device);
  }

  void draw(const Value& device, std::string_view branch, const std::string& indent) {
    text_ += fmt::format("{}{} {}\n", branch, device["name"].text(), number_of(device));
    const std::string name = device["name"].text();
    // The server refuses loops; an answer from elsewhere must not make this one endless.
    if (!above_.insert(name).second) return;
    const auto& legs = device["legs"].list();
    for (std::size_t i = 0; i < legs.size(); ++i) {
      const bool last = i + 1 == legs.size();
      const std::string next_branch = indent + (last ? " └─" : " ├─");
      const auto lower = by_name_.find(legs[i]["device"].text());
      if (lower != by_name_.end() && above_.size() < deepest)
        draw(*lower->second, next_branch, indent + (last ? "   " : " │ "));
      else
        text_ += fmt::format("{} ({})\n", next_branch, legs[i]["uri"].text());
    }
    above_.erase(name);
  }

  std::string take() { return std::move(text_); }

 private:
  static constexpr std::size_t deepest = 256;
  std::map<std::string, const Value*> by_name_;
  std::set<std::string> above_;
  std::string text_;
};

std::string names_text(std::string_view verb, const Value& names) {
  std::string text;
  for (const Value& name : names.list())
    text += fmt::format("{} {}\n", verb, name.text());
  return text;
}

}  // namespace

std::string ls_text(const Value& answer) {
  std::string text;
  for (const Value& device : answer["devices"].list())
    text += fmt::format("{}\t{}\n", device["name"].text(), number_of(device));
  return text.empty() ? no_devices : text;
}

std::string tree_text(const Value& answer) {
  Tree tree(answer);
  for (const Value& device : answer["devices"].list())
    if (device["holders"].list().empty()) tree.draw(device, "", "");
  std::string text = tree.take();
  return text.empty() ? no_devices : text;
}

std::string info_text(const Value& answer) {
  std::string text;
  for (const Value& device : answer["devices"].list()) {
    const bool live = device["live_table"].flag(), inactive = device["inactive_table"].flag();
    const char* tables = live && inactive ? "LIVE & INACTIVE"
                         : live           ? "LIVE"
                         : inactive       ? "INACTIVE"
                                          : "None";
    text += fmt::format("Name:              {}\n", device["name"].text());
    text += fmt::format("State:             {}{}{}\n",
                        device["suspended"].flag() ? "SUSPENDED" : "ACTIVE",
                        device["read_only"].flag() ? " (READ-ONLY)" : "",
                        device["deferred_remove"].flag() ? " (DEFERRED REMOVE)" : "");
    text += "Read Ahead:        0\n";
    text += fmt::format("Tables present:    {}\n", tables);
    text += fmt::format("Open count:        {}\n", device["open_count"].whole());
    text += fmt::format("Event number:      {}\n", device["event_number"].whole());
    text += fmt::format("Major, minor:      {}, {}\n", major_number, device["minor"].whole());
    text += fmt::format("Number of targets: {}\n", device["targets"].whole());
    if (!device["uuid"].text().empty()) text += fmt::format("UUID: {}\n", device["uuid"].text());
    if (device["lease_left_s"].real() > 0)
      text += fmt::format("Goes on in:        {}\n", time_text(device["lease_left_s"].real()));
    if (device["queued"].whole() > 0)
      text += fmt::format("Queued requests:   {}\n", device["queued"].whole());
    if (!device["failure"].text().empty())
      text += fmt::format("Failure:           {}\n", device["failure"].text());
    text += "\n";
  }
  return text.empty() ? no_devices : text;
}

std::string info_columns(const Value& answer, bool headings) {
  // Without headings dmsetup writes for programs: a colon between, and no filling.
  const fmt::string_view layout =
      headings ? "{:<16} {:>3} {:>3} {:<4} {:>4} {:>4} {:>6} {}\n" : "{}:{}:{}:{}:{}:{}:{}:{}\n";
  std::string text;
  for (const Value& device : answer["devices"].list()) {
    const std::string state =
        fmt::format("{}{}{}{}", device["live_table"].flag() ? 'L' : '-',
                    device["inactive_table"].flag() ? 'I' : '-',
                    device["suspended"].flag() ? 's' : '-', device["read_only"].flag() ? 'r' : 'w');
    text += fmt::format(fmt::runtime(layout), device["name"].text(), major_number,
                        device["minor"].whole(), state, device["open_count"].whole(),
                        device["targets"].whole(), device["event_number"].whole(),
                        device["uuid"].text());
  }
  if (text.empty()) return no_devices;
  return headings ? "Name             Maj Min Stat Open Targ Event  UUID\n" + text : text;
}

std::string lines_text(const Value& answer, bool with_names) {
  std::string text;
  for (const Value& device : answer["devices"].list()) {
    const std::string prefix = with_names ? device["name"].text() + ": " : "";
    if (device["lines"].list().empty() && with_names) text += prefix + "\n";
    for (const Value& line : device["lines"].list())
      text += prefix + line.text() + "\n";
  }
  return answer["devices"].list().empty() ? no_devices : text;
}

std::string deps_text(const Value& answer, bool with_names) {
  std::string text;
  for (const Value& device : answer["devices"].list()) {
    if (with_names) text += device["name"].text() + ": ";
    text += fmt::format("{} dependencies\t:", device["legs"].list().size());
    for (const Value& leg : device["legs"].list())
      text += fmt::format(" ({})", leg["uri"].text());
    text += "\n";
  }
  return text.empty() ? no_devices : text;
}

std::string targets_text(const Value& answer) {
  std::string text;
  for (const Value& target : answer["targets"].list())
    text += fmt::format("{:<16} v{}\n", target["name"].text(), target["version"].text());
  return text;
}

std::string apply_text(const Value& answer, bool only_checked) {
  std::string text;
  text += names_text(only_checked ? "would create" : "created", answer["created"]);
  text += names_text(only_checked ? "would swap" : "swapped", answer["swapped"]);
  text += names_text("removed", answer["removed"]);
  text += names_text("unchanged", answer["unchanged"]);
  if (!only_checked && !answer["swapped"].list().empty())
    text += fmt::format("I/O was paused for {}\n", time_text(answer["pause_s"].real()));
  for (const Value& note : answer["notes"].list())
    text += note.text() + "\n";
  return text;
}

std::string event_text(const Value& event) {
  const double seconds = event["time_s"].real();
  const auto whole = static_cast<std::time_t>(seconds);
  std::tm local{};
  ::localtime_r(&whole, &local);
  char time[32];
  std::strftime(time, sizeof time, "%Y-%m-%d %H:%M:%S", &local);
  const auto millis = static_cast<int>((seconds - static_cast<double>(whole)) * 1000);
  std::string text =
      fmt::format("{}.{:03} {:>6} {:<16} {:<14}", time, millis, event["sequence"].whole(),
                  event["device"].text(), event["kind"].text());
  if (!event["detail"].text().empty()) text += " " + event["detail"].text();
  text.erase(text.find_last_not_of(' ') + 1);
  return text + "\n";
}

std::string attach_text(const Value& answer) {
  const std::string name = answer["name"].text();
  if (answer["endpoints"].list().empty())
    return fmt::format(
        "The server does not know its NBD listeners, for nbdkit was started by "
        "hand.\nExport name: {}\n",
        name);
  std::string text;
  for (const Value& endpoint : answer["endpoints"].list()) {
    if (!text.empty()) text += "\n";
    text += fmt::format("{}\n", endpoint["uri"].text());
    for (const char* line : {"nbd_client", "nbdinfo", "qemu"})
      if (!endpoint[line].text().empty()) text += fmt::format("  {}\n", endpoint[line].text());
    if (!endpoint["nbdtab"].text().empty())
      text += fmt::format("  /etc/nbdtab: {}\n", endpoint["nbdtab"].text());
  }
  return text;
}

std::string time_text(double seconds) {
  struct Unit {
    double scale;
    const char* name;
  };
  for (const Unit& unit : {Unit{1, "s"}, Unit{1e-3, "ms"}, Unit{1e-6, "us"}}) {
    if (seconds >= unit.scale || unit.scale == 1e-6) {
      const double value = seconds / unit.scale;
      return fmt::format("{:.{}f} {}", value, value < 10 ? 2 : value < 100 ? 1 : 0, unit.name);
    }
  }
  return "0 us";
}

}  // namespace blockloom::cli
