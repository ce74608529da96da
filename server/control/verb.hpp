#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <span>
#include <string_view>
#include <vector>

#include "proto/control/value.hpp"
#include "server/base/error.hpp"
#include "server/control/params.hpp"
#include "server/control/server.hpp"
#include "server/device/registry.hpp"

/// The verbs of the control socket: one table, name → function.
namespace blockloom::control {

/// Of the interface in docs/control-api.md; goes up when something in it goes away.
inline constexpr int api_version = 1;

/// Where a verb runs.
enum class Runs : std::uint8_t {
  here,    ///< never waits: on the control thread
  query,   ///< asks devices, also one that is being changed; so does a message, which may be
           ///< what lets a change end
  change,  ///< changes something; may wait for I/O
  watch,   ///< answered later, by events; holds no thread
};

struct VerbContext {
  Registry& registry;
  const Options& options;
};

using VerbFunction = std::function<Result<rpc::Value>(VerbContext& context, const Params& params)>;

struct Verb {
  std::string_view name;
  Runs runs;
  std::vector<ParamSpec> params;
  VerbFunction function;  ///< null for Runs::watch, which the Watcher does
};

std::span<const Verb> verbs();
const Verb* find_verb(std::string_view name);
/// Also among those that the options bring.
const Verb* find_verb(std::string_view name, const Options& options);

/// The device that the parameters `device` or `uuid` name; one of them has to be there.
Result<std::shared_ptr<Device>> find_device(Registry& registry, const Params& params);

// By topic; each in the file of its name.
Result<rpc::Value> verb_create(VerbContext& context, const Params& params);
Result<rpc::Value> verb_load(VerbContext& context, const Params& params);
Result<rpc::Value> verb_clear(VerbContext& context, const Params& params);
Result<rpc::Value> verb_suspend(VerbContext& context, const Params& params);
Result<rpc::Value> verb_resume(VerbContext& context, const Params& params);
Result<rpc::Value> verb_remove(VerbContext& context, const Params& params);
Result<rpc::Value> verb_rename(VerbContext& context, const Params& params);
Result<rpc::Value> verb_set_uuid(VerbContext& context, const Params& params);
Result<rpc::Value> verb_message(VerbContext& context, const Params& params);

Result<rpc::Value> verb_version(VerbContext& context, const Params& params);
Result<rpc::Value> verb_targets(VerbContext& context, const Params& params);
Result<rpc::Value> verb_list(VerbContext& context, const Params& params);
Result<rpc::Value> verb_info(VerbContext& context, const Params& params);
Result<rpc::Value> verb_table(VerbContext& context, const Params& params);
Result<rpc::Value> verb_status(VerbContext& context, const Params& params);
Result<rpc::Value> verb_deps(VerbContext& context, const Params& params);
Result<rpc::Value> verb_tree(VerbContext& context, const Params& params);
Result<rpc::Value> verb_stats(VerbContext& context, const Params& params);

Result<rpc::Value> verb_mirror_status(VerbContext& context, const Params& params);
Result<rpc::Value> verb_leg_add(VerbContext& context, const Params& params);
Result<rpc::Value> verb_leg_remove(VerbContext& context, const Params& params);
Result<rpc::Value> verb_leg_replace(VerbContext& context, const Params& params);
Result<rpc::Value> verb_leg_fail(VerbContext& context, const Params& params);
Result<rpc::Value> verb_leg_readd(VerbContext& context, const Params& params);
Result<rpc::Value> verb_leg_vouch(VerbContext& context, const Params& params);

Result<rpc::Value> verb_apply(VerbContext& context, const Params& params);
Result<rpc::Value> verb_check(VerbContext& context, const Params& params);
Result<rpc::Value> verb_reload(VerbContext& context, const Params& params);

Result<rpc::Value> verb_attach_help(VerbContext& context, const Params& params);

Result<rpc::Value> verb_iscsi_sessions(VerbContext& context, const Params& params);
Result<rpc::Value> verb_iscsi_targets(VerbContext& context, const Params& params);
Result<rpc::Value> verb_iscsi_luns(VerbContext& context, const Params& params);
Result<rpc::Value> verb_iscsi_reservations(VerbContext& context, const Params& params);
Result<rpc::Value> verb_iscsi_kick(VerbContext& context, const Params& params);

rpc::Value to_value(const ApplyReport& report);
rpc::Value to_value(const Event& event);
double to_seconds(Duration duration) noexcept;

}  // namespace blockloom::control
