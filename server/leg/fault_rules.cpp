#include "server/leg/fault_rules.hpp"

#include <fmt/format.h>

#include "server/leg/uri.hpp"

namespace blockloom {
namespace {

constexpr std::size_t max_rules = 64;
constexpr std::uint64_t max_count = 1'000'000'000;

constexpr std::array<std::string_view, 7> op_names{"read", "write", "flush",  "trim",
                                                   "zero", "cache", "extents"};
constexpr std::uint8_t all_ops = (1U << op_names.size()) - 1;

constexpr std::uint8_t bit(Op op) {
  return static_cast<std::uint8_t>(1U << static_cast<unsigned>(op));
}
static_assert(static_cast<std::size_t>(Op::extents) + 1 == op_names.size());
constexpr std::uint8_t transfers = bit(Op::read) | bit(Op::write);

struct Code {
  std::string_view name;
  Errc code;
};
constexpr std::array codes{
    Code{"EIO", Errc::io},           Code{"ENOSPC", Errc::no_space},
    Code{"ENOMEM", Errc::no_memory}, Code{"EACCES", Errc::permission},
    Code{"EROFS", Errc::read_only},  Code{"ETIMEDOUT", Errc::timed_out},
    Code{"EINVAL", Errc::invalid},   Code{"EOPNOTSUPP", Errc::not_supported},
};

/// Cuts the text up to a separator off the front, with the separator.
std::string_view take(std::string_view& text, std::string_view separator) {
  const auto end = text.find(separator);
  const std::string_view part = text.substr(0, end);
  text.remove_prefix(end == text.npos ? text.size() : end + separator.size());
  return part;
}

Result<std::uint8_t> parse_ops(std::string_view text) {
  std::uint8_t ops = 0;
  for (bool more = true; more;) {
    more = text.find(',') != text.npos;
    const std::string_view word = take(text, ",");
    std::uint8_t found = word == "any" ? all_ops : 0;
    for (std::size_t i = 0; i < op_names.size(); ++i)
      if (word == op_names[i]) found = static_cast<std::uint8_t>(1U << i);
    if (found == 0)
      return Error{Errc::invalid, fmt::format("operation {}: expected {}, or any", quoted(word),
                                              fmt::join(op_names, ", "))};
    ops |= found;
  }
  return ops;
}

Result<Errc> parse_code(std::string_view word) {
  std::string names;
  for (const Code& row : codes) {
    if (row.name == word) return row.code;
    names += (names.empty() ? "" : ", ") + std::string(row.name);
  }
  return Error{Errc::invalid, fmt::format("error {}: expected one of {}", quoted(word), names)};
}

Result<void> parse_action(std::string_view text, FaultRule& rule) {
  const bool has_value = text.find(':') != text.npos;
  const std::string_view word = take(text, ":");
  if (word == "error") {
    rule.action = FaultRule::Action::error;
    if (!has_value) return {};
    const auto code = parse_code(text);
    if (!code) return code.error();
    rule.code = code.value();
    return {};
  }
  if (word == "delay") {
    rule.action = FaultRule::Action::delay;
    const auto delay = parse_time(text, "delay");
    if (!delay) return delay.error();
    rule.delay = delay.value();
    return {};
  }
  if (word == "hang" && !has_value) {
    rule.action = FaultRule::Action::hang;
    return {};
  }
  if (word == "pass" && !has_value) {
    rule.action = FaultRule::Action::pass;
    return {};
  }
  if (word == "short" && !has_value) {
    rule.action = FaultRule::Action::short_transfer;
    if ((rule.ops & transfers) != 0) return {};
    return Error{Errc::invalid,
                 "action 'short': expected an operation that moves data: read or "
                 "write"};
  }
  return Error{Errc::invalid,
               fmt::format("action {}: expected error, error:CODE, delay:TIME, hang, short or "
                           "pass",
                           quoted(has_value ? fmt::format("{}:{}", word, text) : word))};
}

Result<void> parse_range(std::string_view text, FaultRule& rule) {
  const auto plus = text.find('+');
  if (plus == text.npos)
    return Error{Errc::invalid,
                 fmt::format("range {}: expected START+LENGTH in bytes", quoted(text))};
  const auto start = parse_size(text.substr(0, plus), "start of range");
  if (!start) return start.error();
  const auto length = parse_size(text.substr(plus + 1), "length of range");
  if (!length) return length.error();
  if (length.value().value == 0)
    return Error{Errc::invalid, "length of range '0': expected at least 1 byte"};
  rule.ranged = true;
  rule.start = start.value();
  rule.length = length.value();
  return {};
}

Result<FaultRule> parse_rule(std::string_view text) {
  FaultRule rule;
  const auto equals = text.find('=');
  if (equals == text.npos)
    return Error{Errc::invalid, "expected OPERATION=ACTION, such as read=error"};
  const auto ops = parse_ops(text.substr(0, equals));
  if (!ops) return ops.error();
  rule.ops = ops.value();

  std::string_view rest = text.substr(equals + 1);
  const auto comma = rest.find(',');
  const std::string_view count = comma == rest.npos ? std::string_view() : rest.substr(comma + 1);
  std::string_view range = rest.substr(0, comma);
  const bool has_range = range.find('@') != range.npos;
  const std::string_view action = take(range, "@");
  if (auto done = parse_action(action, rule); !done) return done.error();
  if (has_range)
    if (auto done = parse_range(range, rule); !done) return done.error();
  if (comma == rest.npos) return rule;
  if (!count.starts_with('x'))
    return Error{Errc::invalid,
                 fmt::format("count {}: expected x and a number, such as x3", quoted(count))};
  const auto left = parse_count(count.substr(1), "count", max_count);
  if (!left) return left.error();
  rule.left = left.value();
  return rule;
}

std::string time_text(Duration delay) {
  const auto us = std::chrono::duration_cast<std::chrono::microseconds>(delay).count();
  if (us % 1'000'000 == 0) return fmt::format("{}s", us / 1'000'000);
  if (us % 1000 == 0) return fmt::format("{}ms", us / 1000);
  return fmt::format("{}us", us);
}

}  // namespace

bool FaultRule::matches(const Io& io) const noexcept {
  if ((ops & bit(io.op)) == 0 || left == 0U) return false;
  if (action == Action::short_transfer && (bit(io.op) & transfers) == 0) return false;
  if (!ranged) return true;
  return io.op != Op::flush && io.offset < start + length && start < io.offset + io.length;
}

Result<std::vector<FaultRule>> parse_fault_rules(std::string_view text) {
  std::vector<FaultRule> rules;
  while (!text.empty()) {
    const std::string_view word = take(text, ";");
    if (rules.size() == max_rules)
      return Error{Errc::limit,
                   fmt::format("rule {}: expected at most {} rules", quoted(word), max_rules)};
    auto rule = parse_rule(word);
    if (!rule)
      return Error{Errc::invalid,
                   fmt::format("fault rule {}: {}", quoted(word), rule.error().message)};
    rules.push_back(rule.value());
  }
  return rules;
}

std::string to_string(const FaultRule& rule) {
  std::string text;
  for (std::size_t i = 0; rule.ops != all_ops && i < op_names.size(); ++i)
    if ((rule.ops >> i & 1) != 0) text += (text.empty() ? "" : ",") + std::string(op_names[i]);
  if (rule.ops == all_ops) text = "any";
  switch (rule.action) {
    case FaultRule::Action::error:
      text += "=error";
      for (const Code& row : codes)
        if (row.code == rule.code && rule.code != Errc::io) text += fmt::format(":{}", row.name);
      break;
    case FaultRule::Action::delay:
      text += "=delay:" + time_text(rule.delay);
      break;
    case FaultRule::Action::hang:
      text += "=hang";
      break;
    case FaultRule::Action::short_transfer:
      text += "=short";
      break;
    case FaultRule::Action::pass:
      text += "=pass";
      break;
  }
  if (rule.ranged) text += fmt::format("@{}+{}", rule.start.value, rule.length.value);
  if (rule.left) text += fmt::format(",x{}", *rule.left);
  return text;
}

}  // namespace blockloom
