#include "server/daemon/dump_control.hpp"

#include <algorithm>
#include <map>

#include <fmt/format.h>

namespace blockloom {
namespace {

using control::Params;
using control::ParamSpec;
using control::ParamType;
using control::Runs;
using dump::Record;
using rpc::Value;

/// One piece of a dump's file in an answer; base64 makes it a third longer.
constexpr std::uint64_t piece_max = 4u << 20;
constexpr std::size_t text_max = 16u << 20;

std::string base64(std::string_view bytes) {
  static constexpr char digits[] =
      "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
  std::string out;
  out.reserve((bytes.size() + 2) / 3 * 4);
  for (std::size_t i = 0; i < bytes.size(); i += 3) {
    std::uint32_t word = 0;
    const std::size_t n = std::min<std::size_t>(3, bytes.size() - i);
    for (std::size_t k = 0; k < 3; ++k)
      word = word << 8 | (k < n ? static_cast<unsigned char>(bytes[i + k]) : 0u);
    for (std::size_t k = 0; k < 4; ++k)
      out += k <= n ? digits[word >> (18 - 6 * k) & 63] : '=';
  }
  return out;
}

Result<Record> named(dump::Service& service, const Params& params) {
  return service.store().resolve(params.text("dump"));
}

Value point_values(const std::vector<dump::BindPoint>& points) {
  Value all = Value::array();
  for (const dump::BindPoint& point : points)
    all.push(point.text());
  return all;
}

Result<Value> info(dump::Service& service, const Params&) {
  const dump::ServiceInfo info = service.info();
  Value netdump = Value::object();
  netdump.set("datagrams", info.netdump.datagrams).set("refused", info.netdump.refused);
  netdump.set("malformed", info.netdump.malformed).set("strangers", info.netdump.strangers);
  netdump.set("duplicates", info.netdump.duplicates).set("acks", info.netdump.acks);
  netdump.set("dropped", info.netdump.dropped);
  Value v = Value::object();
  v.set("store", info.store).set("trouble", info.trouble);
  v.set("dumps", info.dumps).set("bytes", info.bytes);
  v.set("total_bytes", info.space.total).set("free_bytes", info.space.free);
  v.set("sessions", info.sessions).set("sessions_max", info.sessions_max);
  v.set("netdump_listeners", point_values(info.endpoints.netdump));
  v.set("stream_listeners", point_values(info.endpoints.stream));
  v.set("netconsole_listeners", point_values(info.endpoints.netconsole));
  v.set("netdump", std::move(netdump));
  return v;
}

Result<Value> list(dump::Service& service, const Params& params) {
  const std::string host = params.text("host");
  Value dumps = Value::array();
  for (const Record& record : service.store().list())
    if (host.empty() || record.id.host == host || record.hostname == host)
      dumps.push(to_value(record));
  return Value::object().set("dumps", std::move(dumps));
}

Result<Value> show(dump::Service& service, const Params& params) {
  auto record = named(service, params);
  if (!record) return record.error();
  Value v = to_value(*record);
  Value runs = Value::array();
  if (record->over())
    if (auto all = service.store().back_end().runs(record->id, record->image, record->bytes))
      for (const dump::DumpRun& run : *all)
        runs.push(Value::object()
                      .set("leg", run.uri)
                      .set("offset", run.offset)
                      .set("length", run.length));
  v.set("runs", std::move(runs));
  return v;
}

/// "dmesg.txt", "netconsole.log", "info.txt": texts beside a dump.
Result<Value> text(dump::Service& service, const Params& params) {
  static constexpr std::string_view names[] = {"dmesg.txt", "netconsole.log", "info.txt"};
  auto record = named(service, params);
  if (!record) return record.error();
  const std::string name = params.has("name") ? params.text("name") : "dmesg.txt";
  if (std::find(std::begin(names), std::end(names), name) == std::end(names))
    return Error{
        Errc::invalid,
        fmt::format("name {}: expected dmesg.txt, netconsole.log or info.txt", quoted(name))};
  auto text = service.store().back_end().get(record->id, name, text_max);
  if (!text) return text.error();
  if (!*text)
    return Error{Errc::not_found, fmt::format("dump {} has no {}", record->id.text(), name)};
  return Value::object().set("id", record->id.text()).set("name", name).set("text", **text);
}

Result<Value> read(dump::Service& service, const Params& params) {
  auto record = named(service, params);
  if (!record) return record.error();
  if (!record->over())
    return Error{Errc::busy, fmt::format("dump {} is being received", record->id.text())};
  auto reader = service.store().back_end().open_image(record->id, record->image);
  if (!reader) return reader.error();
  const std::uint64_t wanted =
      params.has("length") ? std::min(params.count("length"), piece_max) : piece_max;
  std::vector<std::byte> bytes(wanted);
  auto got = (*reader)->read(params.count("offset"), bytes);
  if (!got) return got.error();
  Value v = Value::object();
  v.set("id", record->id.text()).set("offset", params.count("offset")).set("length", *got);
  v.set("base64", base64(dump::as_text(dump::ByteView(bytes).first(*got))));
  return v;
}

Result<Value> verify(dump::Service& service, const Params& params) {
  auto record = named(service, params);
  if (!record) return record.error();
  auto verdict = service.verify(record->id);
  if (!verdict) return verdict.error();
  return Value::object()
      .set("id", record->id.text())
      .set("state", to_string(record->state))
      .set("good", verdict->good)
      .set("sha256", verdict->sha256)
      .set("problem", verdict->problem);
}

Result<Value> pin(dump::Service& service, const Params& params) {
  auto record = named(service, params);
  if (!record) return record.error();
  auto pinned = service.store().pin(record->id, params.flag("pinned", true));
  if (!pinned) return pinned.error();
  return Value::object().set("id", pinned->id.text()).set("pinned", pinned->pinned);
}

Result<Value> remove(dump::Service& service, const Params& params) {
  auto record = named(service, params);
  if (!record) return record.error();
  if (auto removed = service.remove(record->id); !removed) return removed.error();
  return Value::object().set("id", record->id.text());
}

/// What a client wrote to a device as to a disk (kdump's raw target).
Result<Value> import(dump::Service& service, const Params& params, Registry& registry) {
  auto device = registry.open(params.text("device"));
  if (!device) return device.error();
  auto record = service.import(std::move(*device), params.text("host"));
  if (!record) return record.error();
  return to_value(*record);
}

/// The device is named again, so that nothing is destroyed by a slip.
Result<Value> format(dump::Service& service, const Params& params) {
  const std::string device = params.text("device"), store = service.info().store;
  if (store != "dev:" + device)
    return Error{Errc::invalid, fmt::format("device {} is not the dump store: that is '{}'",
                                            quoted(device), store)};
  if (auto made = service.format(); !made) return made.error();
  return Value::object().set("device", device);
}

/// The hundredth crash of one bug reads as one.
Result<Value> groups(dump::Service& service, const Params&) {
  struct Group {
    std::string panic;
    std::size_t count = 0;
    double first = 0, last = 0;
    std::map<std::string, std::size_t> hosts;
    std::string newest;
  };
  std::map<std::string, Group> groups;
  for (const Record& record : service.store().list()) {
    if (!record.over()) continue;
    Group& group = groups[record.signature];
    if (group.count++ == 0) group.first = record.started;
    group.panic = record.panic;
    group.last = record.started;
    group.newest = record.id.text();
    ++group.hosts[record.hostname];
  }
  std::vector<std::pair<std::string, Group>> sorted(groups.begin(), groups.end());
  std::stable_sort(sorted.begin(), sorted.end(),
                   [](const auto& a, const auto& b) { return a.second.count > b.second.count; });
  Value all = Value::array();
  for (const auto& [signature, group] : sorted) {
    Value hosts = Value::array();
    for (const auto& [host, count] : group.hosts)
      hosts.push(host);
    all.push(Value::object()
                 .set("signature", signature)
                 .set("panic", group.panic)
                 .set("count", group.count)
                 .set("first", group.first)
                 .set("last", group.last)
                 .set("newest", group.newest)
                 .set("hosts", std::move(hosts)));
  }
  return Value::object().set("groups", std::move(all));
}

Result<Value> test(dump::Service& service, const Params& params) {
  const Duration timeout =
      params.has("timeout_s") ? params.seconds("timeout_s") : Duration(std::chrono::seconds(20));
  auto record = service.test(timeout);
  if (!record) return record.error();
  return to_value(*record);
}

}  // namespace

std::vector<control::Verb> dump_verbs(dump::Service& service) {
  using T = ParamType;
  using Function = Result<Value> (*)(dump::Service&, const Params&);
  const auto of = [&service](Function function) {
    return [&service, function](control::VerbContext&, const Params& params) -> Result<Value> {
      if (function != info && function != format)
        if (auto ready = service.ready(); !ready) return ready.error();
      return function(service, params);
    };
  };
  const auto import_verb = [&service](control::VerbContext& context,
                                      const Params& params) -> Result<Value> {
    if (auto ready = service.ready(); !ready) return ready.error();
    return import(service, params, context.registry);
  };
  const ParamSpec dump{"dump", T::string, control::Need::required};
  return {
      {"dump_info", Runs::query, {}, of(info)},
      {"dump_list", Runs::query, {{"host", T::string}}, of(list)},
      {"dump_show", Runs::query, {dump}, of(show)},
      {"dump_text", Runs::query, {dump, {"name", T::string}}, of(text)},
      {"dump_read", Runs::query, {dump, {"offset", T::count}, {"length", T::count}}, of(read)},
      {"dump_verify", Runs::change, {dump}, of(verify)},
      {"dump_pin", Runs::change, {dump, {"pinned", T::boolean}}, of(pin)},
      {"dump_remove", Runs::change, {dump}, of(remove)},
      {"dump_import",
       Runs::change,
       {{"device", T::string, control::Need::required}, {"host", T::string}},
       import_verb},
      {"dump_format", Runs::change, {{"device", T::string, control::Need::required}}, of(format)},
      {"dump_groups", Runs::query, {}, of(groups)},
      {"dump_test", Runs::change, {{"timeout_s", T::seconds}}, of(test)},
  };
}

dump::Notify dump_notify(Registry& registry) {
  return [&registry](std::string_view kind, const Record& record) {
    Event event;
    event.device = "dump/" + record.id.text();
    event.kind = kind;
    event.detail = record.panic.empty() ? state_text(record)
                                        : fmt::format("{}: {}", state_text(record), record.panic);
    if (!record.detail.empty()) event.detail += "; " + record.detail;
    registry.events().publish(std::move(event));
  };
}

}  // namespace blockloom
