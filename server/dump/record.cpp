#include "server/dump/record.hpp"

#include <algorithm>
#include <array>

#include <fmt/format.h>

#include "proto/control/message.hpp"

namespace blockloom::dump {
namespace {

using rpc::Value;

constexpr std::array<std::string_view, 4> states{"receiving", "complete", "holes", "incomplete"};
constexpr std::array<std::string_view, 11> reasons{
    "",           "timeout", "new_herald", "no_space",  "shutdown", "no_header",
    "bad_header", "sender",  "digest",     "malformed", "store"};

template <class E, std::size_t N>
bool find_name(const std::array<std::string_view, N>& names, std::string_view text, E& out) {
  const auto found = std::find(names.begin(), names.end(), text);
  if (found == names.end()) return false;
  out = static_cast<E>(found - names.begin());
  return true;
}

bool is_host(std::string_view host) {
  return !host.empty() && host.size() <= 64 && host == safe_host(host);
}

bool is_time(std::string_view time) {
  return time.size() >= 16 && time.size() <= 24 && time[8] == 'T' && time[15] == 'Z' &&
         time.find_first_not_of("0123456789TZ.") == std::string_view::npos;
}

}  // namespace

std::string_view to_string(State state) noexcept {
  return states[static_cast<std::size_t>(state) % states.size()];
}

std::string_view to_string(Reason reason) noexcept {
  return reasons[static_cast<std::size_t>(reason) % reasons.size()];
}

std::string safe_host(std::string_view name) {
  std::string out;
  for (const char c : name.substr(0, 64)) {
    const bool good = (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') ||
                      c == '-' || c == '_' || (c == '.' && !out.empty());
    // An IPv6 address has colons, which paths and URIs do not like.
    out += good ? c : '_';
  }
  return out.empty() ? "unknown" : out;
}

Result<DumpId> parse_dump_id(std::string_view text) {
  const std::size_t slash = text.find('/');
  if (slash != std::string_view::npos) {
    const std::string_view host = text.substr(0, slash), time = text.substr(slash + 1);
    if (is_host(host) && is_time(time)) return DumpId{std::string(host), std::string(time)};
  }
  return Error{Errc::invalid, fmt::format("{} is not the name of a dump: expected HOST/TIME, as in "
                                          "\"web1/20260102T030405Z\"",
                                          quoted(text))};
}

Value to_value(const Record& r) {
  Value holes = Value::array();
  for (const Range& hole : r.holes)
    holes.push(Value::object().set("offset", hole.begin).set("length", hole.size()));
  Value lost = Value::array();
  for (const std::string& target : r.lost_targets)
    lost.push(target);
  Value v = Value::object();
  v.set("id", r.id.text()).set("host", r.id.host).set("time", r.id.time);
  v.set("state", to_string(r.state)).set("reason", to_string(r.reason)).set("detail", r.detail);
  v.set("protocol", r.protocol).set("address", r.address).set("hostname", r.hostname);
  v.set("kernel", r.kernel).set("machine", r.machine);
  v.set("panic", r.panic).set("signature", r.signature).set("label", r.label);
  v.set("started", r.started).set("updated", r.updated).set("finished", r.finished);
  v.set("crash_time", r.crash_time);
  v.set("bytes", r.bytes).set("length", r.length).set("missing", r.missing);
  v.set("holes", std::move(holes));
  v.set("kind", r.kind).set("image", r.image).set("compression", r.compression);
  v.set("encrypted", r.encrypted).set("sha256", r.sha256).set("stream_digest", r.stream_digest);
  v.set("chunk", r.chunk).set("session", r.session);
  v.set("packets", r.packets).set("duplicates", r.duplicates);
  v.set("netconsole", r.netconsole).set("dmesg", r.dmesg).set("unsynced", r.unsynced);
  v.set("pinned", r.pinned).set("lost_targets", std::move(lost));
  return v;
}

std::string record_text(const Record& record) {
  return rpc::to_text(to_value(record), 2) + "\n";
}

Result<Record> parse_record(std::string_view text) {
  Value v;
  rpc::Failure failure;
  if (!rpc::parse_value(text, v, failure)) return Error{Errc::corrupt, failure.message};
  Record r;
  auto id = parse_dump_id(v["id"].text());
  if (!id) return Error{Errc::corrupt, id.error().message};
  r.id = std::move(*id);
  if (!find_name(states, v["state"].text(), r.state) ||
      !find_name(reasons, v["reason"].text(), r.reason))
    return Error{Errc::corrupt, "its state or reason is not known"};
  const auto text_of = [&](std::string& out, std::string_view key) { out = v[key].text(); };
  text_of(r.detail, "detail");
  text_of(r.protocol, "protocol");
  text_of(r.address, "address");
  text_of(r.hostname, "hostname");
  text_of(r.kernel, "kernel");
  text_of(r.machine, "machine");
  text_of(r.panic, "panic");
  text_of(r.signature, "signature");
  text_of(r.label, "label");
  text_of(r.kind, "kind");
  text_of(r.image, "image");
  text_of(r.compression, "compression");
  text_of(r.sha256, "sha256");
  text_of(r.stream_digest, "stream_digest");
  text_of(r.session, "session");
  r.started = v["started"].real();
  r.updated = v["updated"].real();
  r.finished = v["finished"].real();
  r.crash_time = v["crash_time"].real();
  r.bytes = v["bytes"].whole();
  r.length = v["length"].whole();
  r.missing = v["missing"].whole();
  for (const Value& hole : v["holes"].list())
    r.holes.push_back({hole["offset"].whole(), hole["offset"].whole() + hole["length"].whole()});
  r.encrypted = v["encrypted"].flag();
  r.chunk = static_cast<std::uint32_t>(v["chunk"].whole());
  r.packets = v["packets"].whole();
  r.duplicates = v["duplicates"].whole();
  r.netconsole = v["netconsole"].flag();
  r.dmesg = v["dmesg"].flag();
  r.unsynced = v["unsynced"].flag();
  r.pinned = v["pinned"].flag();
  for (const Value& target : v["lost_targets"].list())
    r.lost_targets.push_back(target.text());
  // The image's name becomes a path.
  if (r.image.find('/') != std::string::npos || r.image.starts_with('.'))
    return Error{Errc::corrupt, "its image's name is not a name"};
  return r;
}

std::string state_text(const Record& r) {
  switch (r.state) {
    case State::receiving:
      return "receiving";
    case State::complete:
      return "complete";
    case State::holes:
      return "complete with holes";
    case State::incomplete:
      return fmt::format("incomplete ({})", to_string(r.reason));
  }
  return "unknown";
}

}  // namespace blockloom::dump
