// Verbs of the iSCSI target, which answers for itself.
#include "server/control/verb.hpp"

namespace blockloom::control {
namespace {

Result<rpc::Value> ask(VerbContext& context, std::string_view verb, const Params& params) {
  if (!context.options.iscsi) return Error{Errc::not_supported, "this server has no iSCSI target"};
  return context.options.iscsi(verb, params);
}

}  // namespace

Result<rpc::Value> verb_iscsi_sessions(VerbContext& context, const Params& params) {
  return ask(context, "sessions", params);
}
Result<rpc::Value> verb_iscsi_targets(VerbContext& context, const Params& params) {
  return ask(context, "targets", params);
}
Result<rpc::Value> verb_iscsi_luns(VerbContext& context, const Params& params) {
  return ask(context, "luns", params);
}
Result<rpc::Value> verb_iscsi_reservations(VerbContext& context, const Params& params) {
  return ask(context, "reservations", params);
}
Result<rpc::Value> verb_iscsi_kick(VerbContext& context, const Params& params) {
  return ask(context, "kick", params);
}

}  // namespace blockloom::control
