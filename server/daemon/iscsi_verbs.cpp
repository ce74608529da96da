#include "server/daemon/iscsi_verbs.hpp"

#include <fmt/format.h>

namespace blockloom {
namespace {

using control::Params;
using rpc::Value;

Value answer_of(const char* name, Value list) {
  Value answer = Value::object();
  answer.set(name, std::move(list));
  return answer;
}

Value sessions(iscsi::Node& node) {
  Value list = Value::array();
  for (const iscsi::SessionInfo& s : node.sessions()) {
    Value value = Value::object();
    value.set("tsih", s.tsih)
        .set("initiator", s.initiator)
        .set("alias", s.initiator_alias)
        .set("isid", fmt::format("0x{:012x}", s.isid))
        .set("target", s.target)
        .set("discovery", s.target.empty())
        .set("peer", s.peer)
        .set("portal", s.portal)
        .set("chap_user", s.chap_user)
        .set("header_digest", s.header_digest)
        .set("data_digest", s.data_digest)
        .set("connected_s", s.connected_s)
        .set("commands", s.commands)
        .set("read_bytes", s.read_bytes)
        .set("write_bytes", s.written_bytes)
        .set("rejects", s.rejects)
        .set("in_flight", s.in_flight);
    list.push(std::move(value));
  }
  return answer_of("sessions", std::move(list));
}

Value targets(const iscsi::Server& server, const iscsi::Node& node) {
  Value portals = Value::array();
  for (const std::string& portal : server.portals())
    portals.push(portal);
  Value list = Value::array();
  for (const iscsi::TargetInfo& t : node.targets()) {
    Value value = Value::object();
    value.set("name", t.name)
        .set("alias", t.alias)
        .set("all_devices", t.all_devices)
        .set("chap", t.chap)
        .set("sessions", t.sessions)
        .set("luns", t.luns.size());
    list.push(std::move(value));
  }
  Value answer = answer_of("targets", std::move(list));
  answer.set("portals", std::move(portals));
  return answer;
}

Value luns(iscsi::Node& node) {
  Value list = Value::array();
  for (const iscsi::TargetInfo& t : node.targets()) {
    for (const iscsi::LunInfo& l : t.luns) {
      Value value = Value::object();
      value.set("target", t.name)
          .set("lun", l.lun)
          .set("device", l.device)
          .set("identifier", l.unit.identifier)
          .set("serial", l.unit.options.serial)
          .set("blocks", l.unit.blocks)
          .set("block_size", l.unit.options.block_size)
          .set("read_only", l.unit.options.read_only)
          .set("tasks", l.unit.tasks)
          .set("failure", l.failure);
      list.push(std::move(value));
    }
  }
  return answer_of("luns", std::move(list));
}

Value reservations(iscsi::Node& node) {
  Value list = Value::array();
  for (const iscsi::TargetInfo& t : node.targets()) {
    for (const iscsi::LunInfo& l : t.luns) {
      if (!l.failure.empty()) continue;
      Value keys = Value::array();
      for (const RegistrationInfo& r : l.unit.registrations) {
        Value key = Value::object();
        key.set("initiator", r.initiator)
            .set("target", r.target)
            .set("key", fmt::format("0x{:016x}", r.key))
            .set("holder", r.holder);
        keys.push(std::move(key));
      }
      Value value = Value::object();
      value.set("target", t.name)
          .set("lun", l.lun)
          .set("device", l.device)
          .set("reservation", l.unit.reservation)
          .set("reserve_holder", l.unit.reserve_holder)
          .set("generation", l.unit.generation)
          .set("aptpl", l.unit.aptpl)
          .set("registrations", std::move(keys));
      list.push(std::move(value));
    }
  }
  return answer_of("luns", std::move(list));
}

Result<Value> kick(iscsi::Node& node, const Params& params) {
  const std::uint64_t tsih = params.count("tsih");
  const std::string initiator = params.text("initiator"), target = params.text("target");
  if (tsih > 65535)
    return Error{Errc::invalid, fmt::format("tsih {}: expected a number up to 65535", tsih)};
  if (tsih == 0 && initiator.empty() && target.empty() && !params.flag("all"))
    return Error{Errc::invalid,
                 "one of the parameters 'tsih', 'initiator', 'target' and 'all' must be given"};
  const std::size_t kicked = node.kick(static_cast<std::uint16_t>(tsih), initiator, target,
                                       "the session was ended by the administrator");
  if (kicked == 0 && !params.flag("all"))
    return Error{Errc::not_found, "no iSCSI session fits; see 'blockloom iscsi sessions'"};
  Value answer = Value::object();
  answer.set("kicked", kicked);
  return answer;
}

}  // namespace

Result<Value> iscsi_verb(iscsi::Server* server, std::string_view verb, const Params& params) {
  // A reload may switch it off, or on, at any time; the node stays.
  iscsi::Node* const running = server != nullptr ? server->node() : nullptr;
  if (running == nullptr)
    return Error{Errc::not_supported,
                 "this server has no iSCSI target: add [iscsi] to its configuration"};
  iscsi::Node& node = *running;
  if (verb == "sessions") return sessions(node);
  if (verb == "targets") return targets(*server, node);
  if (verb == "luns") return luns(node);
  if (verb == "reservations") return reservations(node);
  return kick(node, params);
}

}  // namespace blockloom
