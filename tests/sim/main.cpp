#include <chrono>
#include <cstdio>
#include <map>
#include <string>

#include <fmt/format.h>

#include "proto/text/number.hpp"
#include "server/target/mirror/rules.hpp"
#include "tests/sim/world.hpp"

// sim --seed N            one schedule, with its trace
// sim --seeds FROM..TO    many; says which fail, and the rate
// sim --rule NAME [...]   (build with removable rules) without that rule
namespace {

using namespace blockloom::sim;
using blockloom::mirror::Rule;

constexpr const char* rules[] = {"none", "w1", "w3", "w4", "w5", "w5_last", "w6", "r1",
                                 "r2",   "r3", "z1", "s1", "s2", "c2",      "c3", "c4",
                                 "h9",   "f1", "f2", "b1", "b2", "b3"};

int usage() {
  fmt::print(stderr,
             "usage: sim --seed N | --seeds FROM..TO [--stop] [--rule NAME] [--report SECONDS]\n");
  return 2;
}

bool remove_rule(const std::string& name) {
#ifdef BLOCKLOOM_RULE_REMOVAL
  for (unsigned i = 0; i < std::size(rules); ++i) {
    if (name != rules[i]) continue;
    blockloom::mirror::removed_rule = static_cast<Rule>(i);
    return true;
  }
#endif
  return name == rules[0];
}

int many(std::uint64_t from, std::uint64_t to, bool stop, std::uint64_t report_every) {
  const auto report = static_cast<double>(report_every);
  const auto began = std::chrono::steady_clock::now();
  const auto seconds = [&] {
    return std::chrono::duration<double>(std::chrono::steady_clock::now() - began).count();
  };
  Verdict sum;
  std::uint64_t failed = 0;
  std::uint64_t done = 0;
  double next = report;
  std::map<std::string, std::uint64_t> kinds;
  for (std::uint64_t seed = from; seed <= to; ++seed) {
    const Verdict v = World(seed, false).run();
    ++done;
    sum.events += v.events;
    sum.requests += v.requests;
    sum.crashes += v.crashes;
    sum.zombies += v.zombies;
    sum.copies += v.copies;
    sum.fences += v.fences;
    if (!v.what.empty()) {
      ++failed;
      if (++kinds[v.what] <= 3) fmt::print("FAIL seed {}: {}\n", seed, v.what);
      if (stop) break;
    }
    if (report > 0 && seconds() > next) {
      next += report;
      fmt::print("{} schedules, {} failed, {:.0f} s\n", done, failed, seconds());
      std::fflush(stdout);
    }
  }
  const double took = seconds();
  fmt::print(
      "{} schedules, {} failed, in {:.1f} s: {:.0f} a second; {} events, {} requests, "
      "{} timeouts, {} fences, {} crashes, {} resyncs\n",
      done, failed, took, static_cast<double>(done) / took, sum.events, sum.requests, sum.zombies,
      sum.fences, sum.crashes, sum.copies);
  for (const auto& [what, count] : kinds)
    fmt::print("  {} x {}\n", count, what);
  return failed == 0 ? 0 : 1;
}

}  // namespace

int main(int argc, char** argv) {
  std::uint64_t from = 1;
  std::uint64_t to = 0;
  bool one = false;
  bool stop = false;
  std::uint64_t report = 0;
  for (int i = 1; i < argc; ++i) {
    const std::string word = argv[i];
    const std::string value = i + 1 < argc ? argv[i + 1] : "";
    if (word == "--stop") {
      stop = true;
      continue;
    }
    if (value.empty()) return usage();
    ++i;
    if (word == "--seed") {
      if (!blockloom::parse_whole(value, from)) return usage();
      to = from;
      one = true;
    } else if (word == "--seeds") {
      const auto dots = value.find("..");
      if (dots == std::string::npos || !blockloom::parse_whole(value.substr(0, dots), from) ||
          !blockloom::parse_whole(value.substr(dots + 2), to))
        return usage();
    } else if (word == "--report") {
      if (!blockloom::parse_whole(value, report)) return usage();
    } else if (word == "--rule") {
      if (!remove_rule(value)) {
        fmt::print(stderr, "'{}' is no rule that this build can remove\n", value);
        return 2;
      }
    } else {
      return usage();
    }
  }
  if (to < from) return usage();
  if (!one) return many(from, to, stop, report);
  const Verdict v = World(from, true).run();
  fmt::print("seed {}: {}\n", from, v.what.empty() ? "all invariants hold" : v.what);
  return v.what.empty() ? 0 : 1;
}
