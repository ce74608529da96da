// Verbs that change, or would change, several devices as one.
#include <fmt/format.h>

#include "server/control/verb.hpp"

namespace blockloom::control {
namespace {

using rpc::Value;

constexpr std::size_t most_devices = 10'000;

constexpr ParamSpec spec_members[] = {
    {"name", ParamType::string, Need::required}, {"uuid", ParamType::string},
    {"description", ParamType::string},          {"table", ParamType::string, Need::required},
    {"read_only", ParamType::boolean},
};

Result<std::vector<DeviceSpec>> to_specs(const Value& devices) {
  std::vector<DeviceSpec> specs;
  for (const Value& device : devices.list()) {
    const std::string where = fmt::format("devices[{}]", specs.size());
    if (const auto checked = check_params(where, device, spec_members); !checked)
      return checked.error();
    const Params params(device);
    specs.push_back({params.text("name"), params.text("uuid"), params.text("description"),
                     params.text("table"), params.flag("read_only")});
  }
  return specs;
}

Result<std::vector<DeviceSpec>> wanted(VerbContext& context, const Params& params) {
  if (params.has("devices") == params.has("toml"))
    return Error{Errc::invalid, "one of the parameters 'devices' and 'toml' must be given"};
  Result<std::vector<DeviceSpec>> specs = std::vector<DeviceSpec>();
  if (params.has("devices")) {
    if (params.has("file"))
      return Error{Errc::invalid, "the parameter 'file' goes with 'toml', not with 'devices'"};
    specs = to_specs(params.value("devices"));
  } else if (!context.options.parse_config) {
    return Error{Errc::not_supported, "this server reads no TOML: send 'devices'"};
  } else {
    const std::string name = params.has("file") ? params.text("file") : "the request";
    specs = context.options.parse_config(params.text("toml"), name);
  }
  if (!specs) return specs.error();
  if (specs->empty()) return Error{Errc::invalid, "no devices are described"};
  if (specs->size() > most_devices)
    return Error{Errc::limit, fmt::format("{} devices; at most {} are changed as one",
                                          specs->size(), most_devices)};
  return specs;
}

Value names(const std::vector<std::string>& list) {
  Value value = Value::array();
  for (const std::string& name : list)
    value.push(name);
  return value;
}

}  // namespace

Value to_value(const ApplyReport& report) {
  Value value = Value::object();
  value.set("created", names(report.created))
      .set("swapped", names(report.swapped))
      .set("unchanged", names(report.unchanged))
      .set("pause_s", to_seconds(report.pause));
  return value;
}

Result<Value> verb_apply(VerbContext& context, const Params& params) {
  auto specs = wanted(context, params);
  if (!specs) return specs.error();
  SuspendOptions options;
  options.flush = params.flag("flush", true);
  options.timeout = params.seconds("timeout_s");
  auto report = context.registry.apply(*specs, options);
  if (!report) return report.error();
  return to_value(*report);
}

Result<Value> verb_check(VerbContext& context, const Params& params) {
  auto specs = wanted(context, params);
  if (!specs) return specs.error();
  auto report = context.registry.check(*specs);
  if (!report) return report.error();
  return to_value(*report);
}

Result<Value> verb_reload(VerbContext& context, const Params&) {
  if (!context.options.reload)
    return Error{
        Errc::not_supported,
        "the server was started without a configuration file: there is none to read again"};
  auto report = context.options.reload();
  if (!report) return report.error();
  Value value = to_value(*report);
  value.set("removed", names(report->removed)).set("notes", names(report->notes));
  return value;
}

}  // namespace blockloom::control
