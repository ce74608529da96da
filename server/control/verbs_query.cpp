// Verbs that ask. Those that take a device answer for all without one, in the same form.
#include <map>
#include <set>

#include "server/base/clock.hpp"
#include "server/control/verb.hpp"
#include "server/target/target.hpp"

namespace blockloom::control {
namespace {

using rpc::Value;

/// {"devices": [one for each device asked for]}
template <class Describe>
Result<Value> each_device(VerbContext& context, const Params& params, Describe describe) {
  std::vector<std::shared_ptr<Device>> asked;
  if (params.has("device") || params.has("uuid")) {
    auto device = find_device(context.registry, params);
    if (!device) return device.error();
    asked.push_back(*device);
  } else {
    asked = context.registry.list();
  }
  Value devices = Value::array();
  for (const auto& device : asked)
    devices.push(describe(*device));
  Value answer = Value::object();
  answer.set("devices", std::move(devices));
  return answer;
}

Value to_value(const DeviceInfo& info) {
  Value value = Value::object();
  value.set("name", info.name)
      .set("uuid", info.uuid)
      .set("description", info.description)
      .set("minor", info.minor)
      .set("suspended", info.suspended)
      .set("read_only", info.read_only)
      .set("deferred_remove", info.deferred_remove)
      .set("live_table", info.live_table)
      .set("inactive_table", info.inactive_table)
      .set("targets", info.targets)
      .set("sectors", info.size.value)
      .set("open_count", info.open_count)
      .set("event_number", info.event_number)
      .set("queued", info.queued)
      .set("lease_left_s", info.lease_left_s)
      .set("failure", info.failure);
  return value;
}

Value to_value(const IoTotals& totals) {
  Value value = Value::object();
  value.set("reads", totals.reads)
      .set("writes", totals.writes)
      .set("others", totals.others)
      .set("read_bytes", totals.read_bytes)
      .set("write_bytes", totals.write_bytes)
      .set("errors", totals.errors)
      .set("samples", totals.samples)
      .set("sampled_ns", totals.sampled_ns)
      .set("in_flight", totals.in_flight);
  return value;
}

Value lines_of(std::string_view text) {
  Value lines = Value::array();
  while (!text.empty()) {
    const std::size_t end = text.find('\n');
    if (end != 0) lines.push(text.substr(0, end));
    text.remove_prefix(end == std::string_view::npos ? text.size() : end + 1);
  }
  return lines;
}

Value text_of(const Device& device, const std::string& text) {
  Value value = Value::object();
  value.set("name", device.name()).set("lines", lines_of(text));
  return value;
}

Value legs_of(const Device& device) {
  Value legs = Value::array();
  for (const LegInfo& leg : device.leg_infos()) {
    Value value = Value::object();
    value.set("uri", leg.uri).set("device", leg.device).set("bytes", leg.size.value);
    legs.push(std::move(value));
  }
  return legs;
}

}  // namespace

Result<Value> verb_version(VerbContext&, const Params&) {
  Value value = Value::object();
  value.set("version", BLOCKLOOM_VERSION).set("api_version", api_version);
  return value;
}

Result<Value> verb_targets(VerbContext&, const Params&) {
  Value targets = Value::array();
  for (const TargetType& type : target_types()) {
    Value value = Value::object();
    value.set("name", type.name).set("version", type.version);
    targets.push(std::move(value));
  }
  Value answer = Value::object();
  answer.set("targets", std::move(targets));
  return answer;
}

Result<Value> verb_list(VerbContext& context, const Params& params) {
  return each_device(context, params, [](const Device& device) {
    Value value = Value::object();
    value.set("name", device.name()).set("uuid", device.uuid()).set("minor", device.minor());
    return value;
  });
}

Result<Value> verb_info(VerbContext& context, const Params& params) {
  return each_device(context, params, [](const Device& device) { return to_value(device.info()); });
}

Result<Value> verb_table(VerbContext& context, const Params& params) {
  const bool inactive = params.flag("inactive");
  return each_device(context, params, [&](const Device& device) {
    return text_of(device, device.table_text(inactive));
  });
}

Result<Value> verb_status(VerbContext& context, const Params& params) {
  const bool inactive = params.flag("inactive");
  return each_device(context, params, [&](const Device& device) {
    return text_of(device, device.status_text(inactive));
  });
}

Result<Value> verb_deps(VerbContext& context, const Params& params) {
  return each_device(context, params, [](const Device& device) {
    Value value = Value::object();
    value.set("name", device.name()).set("legs", legs_of(device));
    return value;
  });
}

Result<Value> verb_tree(VerbContext& context, const Params&) {
  // Flat, for a stack may be deeper than a JSON text may nest.
  const auto all = context.registry.list();
  std::map<std::string, std::set<std::string>> holders;
  Value devices = Value::array();
  for (const auto& device : all) {
    Value value = Value::object();
    const std::string name = device->name();
    Value legs = legs_of(*device);
    for (const Value& leg : legs.list())
      if (const std::string lower = leg["device"].text(); !lower.empty())
        holders[lower].insert(name);
    value.set("name", name).set("minor", device->minor()).set("legs", std::move(legs));
    devices.push(std::move(value));
  }
  Value answered = Value::array();
  for (Value device : devices.list()) {
    Value above = Value::array();
    for (const std::string& holder : holders[device["name"].text()])
      above.push(holder);
    device.set("holders", std::move(above));
    answered.push(std::move(device));
  }
  Value answer = Value::object();
  answer.set("devices", std::move(answered));
  return answer;
}

Result<Value> verb_stats(VerbContext& context, const Params& params) {
  auto answer = each_device(context, params, [](const Device& device) {
    Value legs = Value::array();
    for (const LegInfo& leg : device.leg_infos()) {
      Value value = Value::object();
      value.set("uri", leg.uri).set("device", leg.device).set("io", to_value(leg.totals));
      legs.push(std::move(value));
    }
    const DeviceInfo info = device.info();
    Value value = Value::object();
    value.set("name", info.name)
        .set("minor", info.minor)
        .set("suspended", info.suspended)
        .set("queued", info.queued)
        .set("io", to_value(info.totals))
        .set("legs", std::move(legs));
    return value;
  });
  // The server's clock: rates do not depend on how long the answer travelled.
  if (answer) answer->set("time_s", static_cast<double>(now_ns()) * 1e-9);
  return answer;
}

}  // namespace blockloom::control
