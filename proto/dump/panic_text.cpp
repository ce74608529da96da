#include "proto/dump/panic_text.hpp"

#include <algorithm>
#include <array>
#include <vector>

#include "proto/text/number.hpp"

namespace blockloom::dump {
namespace {

constexpr std::size_t line_max = 512;
constexpr std::size_t frames_kept = 3;

bool is_digit(char c) noexcept {
  return c >= '0' && c <= '9';
}
bool is_word(char c) noexcept {
  return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || is_digit(c) || c == '_';
}

/// Less "<4>" and "[   12.345678] " or "[ T123] " before a line's text.
std::string_view without_stamp(std::string_view line) {
  if (line.starts_with('<')) {
    const std::size_t end = line.find('>');
    if (end != std::string_view::npos && end <= 4) line.remove_prefix(end + 1);
  }
  for (int i = 0; i < 2 && line.starts_with('['); ++i) {
    const std::size_t end = line.find(']');
    if (end == std::string_view::npos || end > 24) break;
    const std::string_view stamp = line.substr(1, end - 1);
    const bool is_stamp = std::all_of(stamp.begin(), stamp.end(), [](char c) {
      return is_digit(c) || c == ' ' || c == '.' || c == 'T' || c == 'C';
    });
    if (!is_stamp) break;
    line.remove_prefix(end + 1);
  }
  while (!line.empty() && (line.front() == ' ' || line.front() == '\t'))
    line.remove_prefix(1);
  while (!line.empty() && (line.back() == '\r' || line.back() == ' '))
    line.remove_suffix(1);
  return line;
}

struct Mark {
  std::string_view text;
  int rank;  // a higher one says more about the cause
  bool at_start;
};
/// A panic's own line is what is shown; the oops before it is what tells crashes apart.
constexpr std::array marks{
    Mark{"Kernel panic - not syncing", 3, false},
    Mark{"panic: ", 3, true},
    Mark{"BUG: ", 2, true},
    Mark{"Oops", 1, true},
    Mark{"Unable to handle kernel", 2, true},
    Mark{"general protection fault", 2, true},
    Mark{"Fatal trap", 2, true},
    Mark{"watchdog: BUG", 2, true},
};

int rank_of(std::string_view line) {
  for (const Mark& mark : marks)
    if (mark.at_start ? line.starts_with(mark.text) : line.find(mark.text) != line.npos)
      return mark.rank;
  return 0;
}

/// "RIP: 0010:func+0x12/0x30", "pc : func+0x1/0x2": the function; empty if there is none.
std::string_view function_in(std::string_view line) {
  const std::size_t plus = line.find("+0x");
  if (plus == std::string_view::npos) return {};
  std::size_t begin = plus;
  while (begin > 0 && (is_word(line[begin - 1]) || line[begin - 1] == '.'))
    --begin;
  return line.substr(begin, plus - begin);
}

/// FreeBSD's backtrace: "#3 0xffffffff80bc1234 at vpanic+0x1a2", "vpanic() at vpanic+0x1a2".
bool is_trace_start(std::string_view line) {
  return line.starts_with("Call Trace:") || line.starts_with("Call trace:") ||
         line.starts_with("KDB: stack backtrace:") || line.starts_with("Backtrace:");
}

/// Functions that every panic has on its stack.
bool is_machinery(std::string_view function) {
  static constexpr std::array names{"dump_stack",      "dump_stack_lvl",
                                    "show_stack",      "dump_backtrace",
                                    "panic",           "vpanic",
                                    "kdb_backtrace",   "die",
                                    "oops_end",        "__die",
                                    "die_addr",        "no_context",
                                    "exc_page_fault",  "asm_exc_page_fault",
                                    "page_fault_oops", "db_trace_self_wrapper"};
  return std::find(names.begin(), names.end(), function) != names.end();
}

}  // namespace

std::string normalised(std::string_view line) {
  std::string out;
  for (std::size_t i = 0; i < line.size();) {
    const bool starts_word = i == 0 || !is_word(line[i - 1]);
    if (starts_word && hex_digit(line[i]) >= 0) {
      const bool prefixed = line.substr(i).starts_with("0x");
      std::size_t end = prefixed ? i + 2 : i;
      while (end < line.size() && hex_digit(line[end]) >= 0)
        ++end;
      const bool whole = end == line.size() || !is_word(line[end]);
      const std::string_view digits = line.substr(i, end - i);
      const bool any = std::any_of(digits.begin(), digits.end(), is_digit);
      if (whole && (prefixed || any || digits.size() >= 8)) {
        out += '#';
        i = end;
        continue;
      }
    }
    out += line[i++];
  }
  return out;
}

PanicText find_panic(std::string_view log) {
  struct Found {
    std::string line;
    int rank = 0;
  };
  Found panic;
  std::string cause, at;
  std::vector<std::string> frames;
  bool in_trace = false;
  while (!log.empty()) {
    std::string_view line = log.substr(0, log.find('\n'));
    log.remove_prefix(std::min(log.size(), line.size() + 1));
    line = without_stamp(line).substr(0, line_max);
    if (const int rank = rank_of(line); rank > 0) {
      // A new crash begins: what was found before was another one's, or led to this.
      if (rank < 3 && cause.empty()) cause = line;
      if (rank >= panic.rank) panic = {std::string(line), rank};
      in_trace = false;
      continue;
    }
    if ((line.starts_with("RIP: ") || line.starts_with("pc : ")) && at.empty())
      at = function_in(line);
    if (is_trace_start(line)) {
      in_trace = frames.empty();
    } else if (in_trace) {
      const std::string_view function = function_in(line);
      if (!function.empty() && line.find("? ") == line.npos && !is_machinery(function))
        frames.emplace_back(function);
      in_trace = frames.size() < frames_kept;
    }
  }
  PanicText found;
  if (panic.rank == 0) return found;
  found.line = panic.line;
  found.signature = normalised(cause.empty() ? panic.line : cause);
  if (!at.empty()) found.signature += " at " + at;
  for (const std::string& frame : frames)
    found.signature += " < " + frame;
  return found;
}

}  // namespace blockloom::dump
