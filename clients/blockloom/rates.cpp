// Rates and latencies: what `top` shows, from two answers of `stats`.
#include <map>

#include <fmt/format.h>

#include "clients/blockloom/output.hpp"

namespace blockloom::cli {

using rpc::Value;

namespace {

/// A counter's growth; a new table's legs begin at 0, and then all of it is new.
double grown(const Value& before, const Value& after, std::string_view name) {
  const double was = before[name].real(), is = after[name].real();
  return is >= was ? is - was : is;
}

Value io_rates(const Value& before, const Value& after, double seconds) {
  const auto rate = [&](std::string_view name) { return grown(before, after, name) / seconds; };
  const double samples = grown(before, after, "samples");
  Value value = Value::object();
  value.set("reads_per_s", rate("reads"))
      .set("writes_per_s", rate("writes"))
      .set("others_per_s", rate("others"))
      .set("read_bytes_per_s", rate("read_bytes"))
      .set("write_bytes_per_s", rate("write_bytes"))
      .set("errors_per_s", rate("errors"))
      // No request was timed: there is no latency, which is not the same as none at all.
      .set("latency_s",
           samples > 0 ? Value(grown(before, after, "sampled_ns") / samples * 1e-9) : Value())
      .set("in_flight", after["in_flight"].whole());
  return value;
}

std::map<std::string, const Value*> by_name(const Value& list, const char* name) {
  std::map<std::string, const Value*> found;
  for (const Value& item : list.list())
    found.emplace(item[name].text(), &item);
  return found;
}

const Value& io_in(const std::map<std::string, const Value*>& all, const std::string& name) {
  static const Value nothing;
  const auto found = all.find(name);
  return found == all.end() ? nothing : (*found->second)["io"];
}

std::string rate_text(double rate) {
  if (rate <= 0) return "0";
  if (rate < 10) return fmt::format("{:.1f}", rate);
  if (rate < 1e6) return fmt::format("{:.0f}", rate);
  return fmt::format("{:.2f}M", rate / 1e6);
}

std::string rate_row(const std::string& name, const Value& io, const std::string& queued) {
  const Value& latency = io["latency_s"];
  return fmt::format("{:<28} {:>9} {:>9} {:>9} {:>10.1f} {:>10.1f} {:>9} {:>7} {:>6} {:>8}\n",
                     name.size() <= 28 ? name : "…" + name.substr(name.size() - 27),
                     rate_text(io["reads_per_s"].real()), rate_text(io["writes_per_s"].real()),
                     rate_text(io["others_per_s"].real()),
                     io["read_bytes_per_s"].real() / (1 << 20),
                     io["write_bytes_per_s"].real() / (1 << 20),
                     latency.is_null() ? "-" : time_text(latency.real()), io["in_flight"].whole(),
                     queued, rate_text(io["errors_per_s"].real()));
}

}  // namespace

Value rates_of(const Value& before, const Value& after) {
  double seconds = after["time_s"].real() - before["time_s"].real();
  if (!(seconds > 1e-6)) seconds = 1e-6;
  const auto devices_before = by_name(before["devices"], "name");
  Value devices = Value::array();
  for (const Value& device : after["devices"].list()) {
    const std::string name = device["name"].text();
    const auto was = devices_before.find(name);
    static const Value nothing;
    const auto legs_before =
        by_name(was == devices_before.end() ? nothing : (*was->second)["legs"], "uri");
    Value legs = Value::array();
    for (const Value& leg : device["legs"].list()) {
      Value value = Value::object();
      value.set("uri", leg["uri"].text())
          .set("rates", io_rates(io_in(legs_before, leg["uri"].text()), leg["io"], seconds));
      legs.push(std::move(value));
    }
    Value value = Value::object();
    value.set("name", name)
        .set("suspended", device["suspended"].flag())
        .set("queued", device["queued"].whole())
        .set("rates", io_rates(io_in(devices_before, name), device["io"], seconds))
        .set("legs", std::move(legs));
    devices.push(std::move(value));
  }
  Value rates = Value::object();
  rates.set("interval_s", seconds).set("devices", std::move(devices));
  return rates;
}

std::string top_text(const Value& rates) {
  std::string text = fmt::format("{:<28} {:>9} {:>9} {:>9} {:>10} {:>10} {:>9} {:>7} {:>6} {:>8}\n",
                                 "DEVICE / LEG", "READ/S", "WRITE/S", "OTHER/S", "READ MiB/s",
                                 "WRIT MiB/s", "LATENCY", "FLIGHT", "QUEUED", "ERRORS/S");
  for (const Value& device : rates["devices"].list()) {
    const std::string name =
        device["name"].text() + (device["suspended"].flag() ? " (suspended)" : "");
    text += rate_row(name, device["rates"], std::to_string(device["queued"].whole()));
    for (const Value& leg : device["legs"].list())
      text += rate_row("  " + leg["uri"].text(), leg["rates"], "");
  }
  return text;
}

}  // namespace blockloom::cli
