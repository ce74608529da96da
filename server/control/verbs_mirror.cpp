// Verbs of mirrors. Those that change who its legs are make a table and swap it in; a swap that
// fails leaves the old table serving.
#include <algorithm>

#include <fmt/format.h>

#include "proto/control/message.hpp"
#include "server/control/verb.hpp"
#include "server/target/mirror/spec.hpp"
#include "server/target/table_line.hpp"

namespace blockloom::control {
namespace {

using mirror::LegSpec;
using mirror::MirrorSpec;
using rpc::Value;

/// A mirror inside a live table: which line, and what it says.
struct Found {
  std::shared_ptr<Device> device;
  std::shared_ptr<Table> table;
  std::vector<TableLine> lines;
  std::size_t line = 0;
  MirrorSpec spec;

  const Target& target() const { return *table->segments()[line].target; }
  Sectors start() const { return lines[line].start; }
};

/// The mirror that holds `sector`, or the only one of the table.
Result<Found> find_mirror(VerbContext& context, const Params& params) {
  auto device = find_device(context.registry, params);
  if (!device) return device.error();
  Found found;
  found.device = std::move(*device);
  found.table = found.device->live_table();
  const std::string name = found.device->name();
  if (!found.table)
    return Error{Errc::not_found, fmt::format("device '{}' has no live table", name)};
  auto lines = parse_table(found.table->source());
  if (!lines) return lines.error();
  found.lines = std::move(*lines);
  std::vector<std::size_t> mirrors;
  for (std::size_t i = 0; i < found.lines.size(); ++i) {
    const TableLine& line = found.lines[i];
    const bool wanted =
        !params.has("sector") || (params.count("sector") >= line.start.value &&
                                  params.count("sector") - line.start.value < line.length.value);
    if (line.type == "mirror" && wanted) mirrors.push_back(i);
  }
  if (mirrors.size() != 1)
    return Error{mirrors.empty() ? Errc::not_found : Errc::invalid,
                 fmt::format("device '{}' has {} there: expected one; name it by its first sector",
                             name, mirrors.empty() ? "no mirror" : "several mirrors")};
  found.line = mirrors.front();
  auto spec = mirror::parse_mirror(found.lines[found.line].words);
  if (!spec) return spec.error();
  found.spec = std::move(*spec);
  return found;
}

/// A leg by its number in the table, or its URI.
Result<std::size_t> leg_number(const Found& found, const std::string& word) {
  const auto& legs = found.spec.legs;
  const auto by_uri =
      std::find_if(legs.begin(), legs.end(), [&](const LegSpec& leg) { return leg.uri == word; });
  if (by_uri != legs.end()) return static_cast<std::size_t>(by_uri - legs.begin());
  if (!word.empty() && word.find_first_not_of("0123456789") == std::string::npos) {
    auto number = parse_number(word, "leg", legs.size() - 1);
    if (!number) return number.error();
    return static_cast<std::size_t>(*number);
  }
  return Error{Errc::not_found,
               fmt::format("device '{}' has no leg {}: expected a number from 0 to {}, or the URI "
                           "of one",
                           found.device->name(), quoted(word), legs.size() - 1)};
}

/// Swaps the table in which this mirror reads `spec`.
Result<Value> swap_in(VerbContext& context, const Found& found, const MirrorSpec& spec,
                      const Params& params) {
  std::string text;
  for (std::size_t i = 0; i < found.lines.size(); ++i) {
    const TableLine& line = found.lines[i];
    text += fmt::format("{} {} {}", line.start.value, line.length.value, line.type);
    if (i == found.line) {
      text += ' ' + to_text(spec);
    } else {
      for (const std::string& word : line.words)
        text += ' ' + escape_word(word);
    }
    text += '\n';
  }
  DeviceSpec device;
  device.name = found.device->name();
  device.table = std::move(text);
  device.read_only = found.table->read_only();
  SuspendOptions options;
  options.timeout = params.seconds("timeout_s");
  auto report = context.registry.apply({device}, options);
  if (!report) return report.error();
  Value value = Value::object();
  value.set("name", device.name)
      .set("swapped", !report->swapped.empty())
      .set("pause_s", to_seconds(report->pause))
      .set("legs", spec.legs.size());
  return value;
}

Result<Value> tell(VerbContext& context, const Found& found, const std::string& verb,
                   std::size_t leg) {
  const std::vector<std::string> words{verb, fmt::format("{}", leg)};
  const std::string name = found.device->name();
  auto reply = context.registry.message(name, found.start(), words);
  if (!reply) return reply.error();
  Value value = Value::object();
  value.set("name", name).set("swapped", false).set("legs", found.spec.legs.size());
  return value;
}

Result<LegSpec> new_leg(const Params& params) {
  LegSpec leg;
  leg.uri = params.text("uri");
  leg.offset = Sectors(params.count("offset"));
  if (params.has("timeout_ms")) leg.timeout_ms = params.count("timeout_ms");
  if (leg.uri.empty()) return Error{Errc::invalid, "the URI of the new leg is missing"};
  if (leg.offset > max_sectors) return Error{Errc::invalid, "'offset' is beyond any leg's end"};
  return leg;
}

void forget_leg(MirrorSpec& spec, std::size_t leg) {
  spec.legs.erase(spec.legs.begin() + static_cast<std::ptrdiff_t>(leg));
  spec.min_acks = std::min<unsigned>(spec.min_acks, static_cast<unsigned>(spec.legs.size()));
  if (!spec.preferred) return;
  if (*spec.preferred == leg)
    spec.preferred.reset();
  else if (*spec.preferred > leg)
    --*spec.preferred;
}

}  // namespace

Result<Value> verb_mirror_status(VerbContext& context, const Params& params) {
  auto device = find_device(context.registry, params);
  if (!device) return device.error();
  const auto table = (*device)->live_table();
  Value mirrors = Value::array();
  if (table) {
    for (const Table::Segment& segment : table->segments()) {
      if (segment.target->type() != "mirror") continue;
      Value details;
      rpc::Failure failure;
      if (!rpc::parse_value(segment.target->details(), details, failure))
        return Error{Errc::corrupt,
                     fmt::format("mirror: its status is no JSON: {}", failure.message)};
      Value value = Value::object();
      value.set("start", to_sectors(segment.start).value)
          .set("length", to_sectors(segment.length).value)
          .set("status", segment.target->status())
          .set("details", std::move(details));
      mirrors.push(std::move(value));
    }
  }
  if (mirrors.list().empty())
    return Error{Errc::not_found, fmt::format("device '{}' has no mirror", (*device)->name())};
  Value answer = Value::object();
  answer.set("name", (*device)->name()).set("mirrors", std::move(mirrors));
  return answer;
}

Result<Value> verb_leg_add(VerbContext& context, const Params& params) {
  auto found = find_mirror(context, params);
  if (!found) return found.error();
  auto leg = new_leg(params);
  if (!leg) return leg.error();
  MirrorSpec spec = found->spec;
  spec.legs.push_back(std::move(*leg));
  return swap_in(context, *found, spec, params);
}

Result<Value> verb_leg_remove(VerbContext& context, const Params& params) {
  auto found = find_mirror(context, params);
  if (!found) return found.error();
  auto leg = leg_number(*found, params.text("leg"));
  if (!leg) return leg.error();
  MirrorSpec spec = found->spec;
  if (spec.legs.size() == 1)
    return Error{Errc::busy, fmt::format("leg '{}' is the last one of device '{}'",
                                         spec.legs[0].uri, found->device->name())};
  forget_leg(spec, *leg);
  return swap_in(context, *found, spec, params);
}

Result<Value> verb_leg_replace(VerbContext& context, const Params& params) {
  auto found = find_mirror(context, params);
  if (!found) return found.error();
  auto leg = leg_number(*found, params.text("leg"));
  if (!leg) return leg.error();
  auto fresh = new_leg(params);
  if (!fresh) return fresh.error();
  MirrorSpec spec = found->spec;
  if (!fresh->timeout_ms) fresh->timeout_ms = spec.legs[*leg].timeout_ms;
  if (!fresh->read_timeout_ms) fresh->read_timeout_ms = spec.legs[*leg].read_timeout_ms;
  spec.legs[*leg] = std::move(*fresh);
  return swap_in(context, *found, spec, params);
}

namespace {

Result<Value> tell_leg(VerbContext& context, const Params& params, const std::string& verb) {
  auto found = find_mirror(context, params);
  if (!found) return found.error();
  auto leg = leg_number(*found, params.text("leg"));
  if (!leg) return leg.error();
  return tell(context, *found, verb, *leg);
}

}  // namespace

Result<Value> verb_leg_fail(VerbContext& context, const Params& params) {
  return tell_leg(context, params, "fail");
}

Result<Value> verb_leg_readd(VerbContext& context, const Params& params) {
  return tell_leg(context, params, "readd");
}

Result<Value> verb_leg_vouch(VerbContext& context, const Params& params) {
  return tell_leg(context, params, "vouch");
}

}  // namespace blockloom::control
