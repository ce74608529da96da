// Verbs that change one device.
#include "proto/control/message.hpp"
#include "server/control/verb.hpp"

namespace blockloom::control {
namespace {

using rpc::Value;

/// The answer of a verb that has nothing to say but which device it was.
Value answer(std::string_view name) {
  Value value = Value::object();
  value.set("name", name);
  return value;
}

/// Runs a change on the device that the parameters name, and answers with its name.
template <class Change>
Result<Value> changed(VerbContext& context, const Params& params, Change change) {
  auto device = find_device(context.registry, params);
  if (!device) return device.error();
  const std::string name = (*device)->name();
  if (const Result<void> result = change(name); !result) return result.error();
  return answer(name);
}

SuspendOptions suspend_options(const Params& params) {
  SuspendOptions options;
  options.flush = params.flag("flush", true);
  options.timeout = params.seconds("timeout_s");
  return options;
}

/// An empty text would make a device without a table; whoever sends one means something else.
Result<void> check_table(const Params& params) {
  if (!params.has("table")) return {};
  const std::string text = params.text("table");
  if (text.find_first_not_of(" \t\r\n") != std::string::npos) return {};
  return Error{Errc::invalid, "the table is empty; expected lines of START LENGTH TYPE ARGUMENTS"};
}

}  // namespace

Result<Value> verb_create(VerbContext& context, const Params& params) {
  if (const auto checked = check_table(params); !checked) return checked.error();
  DeviceSpec spec;
  spec.name = params.text("name");
  spec.uuid = params.text("uuid");
  spec.description = params.text("description");
  spec.table = params.text("table");
  spec.read_only = params.flag("read_only");
  if (const auto result = context.registry.create(spec); !result) return result.error();
  return answer(spec.name);
}

Result<Value> verb_load(VerbContext& context, const Params& params) {
  if (const auto checked = check_table(params); !checked) return checked.error();
  return changed(context, params, [&](const std::string& name) {
    return context.registry.load(name, params.text("table"), params.flag("read_only"));
  });
}

Result<Value> verb_clear(VerbContext& context, const Params& params) {
  return changed(context, params,
                 [&](const std::string& name) { return context.registry.clear(name); });
}

Result<Value> verb_suspend(VerbContext& context, const Params& params) {
  SuspendOptions options = suspend_options(params);
  options.lease = params.seconds("lease_s");
  return changed(context, params,
                 [&](const std::string& name) { return context.registry.suspend(name, options); });
}

Result<Value> verb_resume(VerbContext& context, const Params& params) {
  auto device = find_device(context.registry, params);
  if (!device) return device.error();
  const std::string name = (*device)->name();
  auto report = context.registry.resume(name, suspend_options(params));
  if (!report) return report.error();
  Value value = answer(name);
  value.set("swapped", report->swapped).set("pause_s", to_seconds(report->pause));
  return value;
}

Result<Value> verb_remove(VerbContext& context, const Params& params) {
  return changed(context, params, [&](const std::string& name) {
    return context.registry.remove(name, {params.flag("deferred"), params.flag("force")});
  });
}

Result<Value> verb_rename(VerbContext& context, const Params& params) {
  const std::string new_name = params.text("new_name");
  auto renamed = changed(context, params, [&](const std::string& name) {
    return context.registry.rename(name, new_name);
  });
  if (!renamed) return renamed.error();
  return answer(new_name);
}

Result<Value> verb_set_uuid(VerbContext& context, const Params& params) {
  return changed(context, params, [&](const std::string& name) {
    return context.registry.set_uuid(name, params.text("new_uuid"));
  });
}

Result<Value> verb_message(VerbContext& context, const Params& params) {
  auto device = find_device(context.registry, params);
  if (!device) return device.error();
  const std::string name = (*device)->name();
  const std::uint64_t sector = params.count("sector");
  const std::vector<std::string> words = params.words("words");
  if (words.empty()) return Error{Errc::invalid, "message: 'words' is empty"};
  if (sector > max_sectors.value)
    return Error{Errc::invalid, "message: 'sector' is beyond any device's end"};
  auto reply = context.registry.message(name, Sectors(sector), words);
  if (!reply) return reply.error();
  Value value = answer(name);
  value.set("reply", *reply);
  return value;
}

}  // namespace blockloom::control
