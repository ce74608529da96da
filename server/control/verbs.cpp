#include <chrono>

#include "server/control/verb.hpp"

namespace blockloom::control {
namespace {

constexpr ParamSpec device{"device", ParamType::string};
constexpr ParamSpec uuid{"uuid", ParamType::string};
constexpr ParamSpec table{"table", ParamType::string, Need::required};
constexpr ParamSpec read_only{"read_only", ParamType::boolean};
constexpr ParamSpec flush{"flush", ParamType::boolean};
constexpr ParamSpec timeout{"timeout_s", ParamType::seconds};
constexpr ParamSpec inactive{"inactive", ParamType::boolean};
constexpr ParamSpec sector{"sector", ParamType::count};
constexpr ParamSpec leg{"leg", ParamType::string, Need::required};
constexpr ParamSpec leg_uri{"uri", ParamType::string, Need::required};
constexpr ParamSpec leg_offset{"offset", ParamType::count};
constexpr ParamSpec leg_timeout{"timeout_ms", ParamType::count};
constexpr ParamSpec devices{"devices", ParamType::devices};
constexpr ParamSpec toml{"toml", ParamType::string};
constexpr ParamSpec file{"file", ParamType::string};

std::vector<Verb> make_verbs() {
  using T = ParamType;
  return {
      {"version", Runs::here, {}, verb_version},
      {"targets", Runs::here, {}, verb_targets},
      {"create",
       Runs::change,
       {{"name", T::string, Need::required},
        {"uuid", T::string},
        {"description", T::string},
        {"table", T::string},
        read_only},
       verb_create},
      {"load", Runs::change, {device, uuid, table, read_only}, verb_load},
      {"clear", Runs::change, {device, uuid}, verb_clear},
      {"suspend",
       Runs::change,
       {device, uuid, flush, timeout, {"lease_s", T::seconds}},
       verb_suspend},
      {"resume", Runs::change, {device, uuid, flush, timeout}, verb_resume},
      {"remove",
       Runs::change,
       {device, uuid, {"deferred", T::boolean}, {"force", T::boolean}},
       verb_remove},
      {"rename",
       Runs::change,
       {device, uuid, {"new_name", T::string, Need::required}},
       verb_rename},
      {"set_uuid",
       Runs::change,
       {device, uuid, {"new_uuid", T::string, Need::required}},
       verb_set_uuid},
      {"message",
       Runs::query,
       {device, uuid, {"sector", T::count}, {"words", T::words, Need::required}},
       verb_message},
      {"list", Runs::query, {}, verb_list},
      {"info", Runs::query, {device, uuid}, verb_info},
      {"table", Runs::query, {device, uuid, inactive}, verb_table},
      {"status", Runs::query, {device, uuid, inactive}, verb_status},
      {"deps", Runs::query, {device, uuid}, verb_deps},
      {"tree", Runs::query, {}, verb_tree},
      {"stats", Runs::query, {device, uuid}, verb_stats},
      {"mirror_status", Runs::query, {device, uuid}, verb_mirror_status},
      {"leg_add",
       Runs::change,
       {device, uuid, sector, leg_uri, leg_offset, leg_timeout, timeout},
       verb_leg_add},
      {"leg_remove", Runs::change, {device, uuid, sector, leg, timeout}, verb_leg_remove},
      {"leg_replace",
       Runs::change,
       {device, uuid, sector, leg, leg_uri, leg_offset, leg_timeout, timeout},
       verb_leg_replace},
      {"leg_fail", Runs::query, {device, uuid, sector, leg}, verb_leg_fail},
      {"leg_readd", Runs::query, {device, uuid, sector, leg}, verb_leg_readd},
      {"leg_vouch", Runs::query, {device, uuid, sector, leg}, verb_leg_vouch},
      {"wait", Runs::watch, {device, uuid, {"event_number", T::count}, timeout}, nullptr},
      {"events", Runs::watch, {device, {"since", T::count}, {"follow", T::boolean}}, nullptr},
      {"apply", Runs::change, {devices, toml, file, flush, timeout}, verb_apply},
      {"check", Runs::change, {devices, toml, file}, verb_check},
      {"reload", Runs::change, {}, verb_reload},
      {"attach_help", Runs::here, {device, uuid}, verb_attach_help},
      {"iscsi_sessions", Runs::query, {}, verb_iscsi_sessions},
      {"iscsi_targets", Runs::query, {}, verb_iscsi_targets},
      {"iscsi_luns", Runs::query, {}, verb_iscsi_luns},
      {"iscsi_reservations", Runs::query, {}, verb_iscsi_reservations},
      {"iscsi_kick",
       Runs::query,
       {{"tsih", T::count}, {"initiator", T::string}, {"target", T::string}, {"all", T::boolean}},
       verb_iscsi_kick},
  };
}

}  // namespace

std::span<const Verb> verbs() {
  static const std::vector<Verb> all = make_verbs();
  return all;
}

const Verb* find_verb(std::string_view name) {
  for (const Verb& verb : verbs())
    if (verb.name == name) return &verb;
  return nullptr;
}

const Verb* find_verb(std::string_view name, const Options& options) {
  if (const Verb* verb = find_verb(name)) return verb;
  if (!options.more_verbs) return nullptr;
  for (const Verb& verb : *options.more_verbs)
    if (verb.name == name) return &verb;
  return nullptr;
}

Result<std::shared_ptr<Device>> find_device(Registry& registry, const Params& params) {
  if (params.has("device") == params.has("uuid"))
    return Error{Errc::invalid, "one of the parameters 'device' and 'uuid' must be given"};
  if (params.has("device")) return registry.find(params.text("device"));
  return registry.find_uuid(params.text("uuid"));
}

double to_seconds(Duration duration) noexcept {
  return std::chrono::duration<double>(duration).count();
}

}  // namespace blockloom::control
