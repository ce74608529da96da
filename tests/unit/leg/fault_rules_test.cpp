#include "server/leg/fault_rules.hpp"

#include <doctest/doctest.h>

using namespace blockloom;
using namespace std::chrono_literals;

namespace {

FaultRule rule(std::string_view text) {
  auto rules = parse_fault_rules(text);
  REQUIRE_MESSAGE(rules, rules.error().message);
  REQUIRE(rules->size() == 1);
  return rules->front();
}

bool matches(const FaultRule& rule, Op op, std::uint64_t offset = 0, std::uint64_t length = 512) {
  Io io;
  io.op = op;
  io.offset = Bytes(offset);
  io.length = Bytes(op == Op::flush ? 0 : length);
  return rule.matches(io);
}

constexpr Op all[] = {Op::read, Op::write, Op::flush, Op::trim, Op::zero, Op::cache, Op::extents};

}  // namespace

TEST_CASE("a rule is for its operations") {
  const std::string_view names[] = {"read", "write", "flush", "trim", "zero", "cache", "extents"};
  for (std::size_t i = 0; i < 7; ++i) {
    const FaultRule one = rule(std::string(names[i]) + "=error");
    for (const Op op : all)
      CHECK(matches(one, op) == (op == all[i]));
  }
  for (const Op op : all)
    CHECK(matches(rule("any=hang"), op));
  const FaultRule two = rule("write,flush=error");
  CHECK(matches(two, Op::write));
  CHECK(matches(two, Op::flush));
  CHECK_FALSE(matches(two, Op::read));
}

TEST_CASE("a rule with a range is for requests that touch it, and no flush") {
  const FaultRule ranged = rule("any=error@4096+1K");
  CHECK_FALSE(matches(ranged, Op::read, 0, 4096));
  CHECK(matches(ranged, Op::read, 0, 4608));
  CHECK(matches(ranged, Op::read, 4608, 512));
  CHECK_FALSE(matches(ranged, Op::read, 5120, 512));
  CHECK(matches(ranged, Op::write, 0, 1 << 20));
  CHECK_FALSE(matches(ranged, Op::flush));
}

TEST_CASE("short is for transfers only, also under any") {
  CHECK(matches(rule("any=short"), Op::read));
  CHECK(matches(rule("any=short"), Op::write));
  CHECK_FALSE(matches(rule("any=short"), Op::flush));
  CHECK_FALSE(matches(rule("any=short"), Op::zero));
}

TEST_CASE("actions take their values") {
  CHECK(rule("read=error").code == Errc::io);
  CHECK(rule("read=error:EIO").code == Errc::io);
  CHECK(rule("read=error:ENOSPC").code == Errc::no_space);
  CHECK(rule("read=error:EROFS").code == Errc::read_only);
  CHECK(rule("read=error:ETIMEDOUT").code == Errc::timed_out);
  CHECK(rule("read=delay:250us").delay == 250us);
  CHECK(rule("read=delay:100ms").delay == 100ms);
  CHECK(rule("read=delay:3600s").delay == 1h);
  CHECK(rule("read=hang").action == FaultRule::Action::hang);
  CHECK(rule("read=error,x3").left == 3);
  CHECK_FALSE(rule("read=error").left);
}

TEST_CASE("rules follow each other, and none is none") {
  const auto rules = parse_fault_rules("read=error;write=hang;");
  REQUIRE(rules);
  CHECK(rules.value().size() == 2);
  CHECK(parse_fault_rules("").value().empty());
}

TEST_CASE("a rule is written as it is read") {
  for (const std::string text :
       {"read=error", "any=hang", "any=pass@0+512,x2", "read,write=error:ENOSPC,x3",
        "write=delay:100ms@0+4096", "any=short@4096+512,x1", "flush=delay:250us",
        "trim,zero,cache,extents=delay:5s"})
    CHECK(to_string(rule(text)) == text);
  CHECK(to_string(rule("write,read=error:EIO@1K+1M")) == "read,write=error@1024+1048576");
}

TEST_CASE("a bad rule is refused with the word and what was expected") {
  const std::string size = ": expected bytes, such as 65536, 64K, 512M, 1G";
  const std::string time = ": expected a time up to one hour, such as 250us, 100ms, 5s";
  const std::string ops = ": expected read, write, flush, trim, zero, cache, extents, or any";
  const std::string actions = ": expected error, error:CODE, delay:TIME, hang, short or pass";
  const struct {
    std::string rule, message;
  } rows[] = {
      {"read", "expected OPERATION=ACTION, such as read=error"},
      {"=error", "operation ''" + ops},
      {"reed=error", "operation 'reed'" + ops},
      {"read,=error", "operation ''" + ops},
      {"Read=error", "operation 'Read'" + ops},
      {"read=", "action ''" + actions},
      {"read=fail", "action 'fail'" + actions},
      {"read=hang:5s", "action 'hang:5s'" + actions},
      {"read=short:1", "action 'short:1'" + actions},
      {"flush=short", "action 'short': expected an operation that moves data: read or write"},
      {"read=error:",
       "error '': expected one of EIO, ENOSPC, ENOMEM, EACCES, EROFS, ETIMEDOUT, "
       "EINVAL, EOPNOTSUPP"},
      {"read=error:EFOO",
       "error 'EFOO': expected one of EIO, ENOSPC, ENOMEM, EACCES, EROFS, "
       "ETIMEDOUT, EINVAL, EOPNOTSUPP"},
      {"read=delay", "delay ''" + time},
      {"read=delay:100", "delay '100'" + time},
      {"read=delay:3601s", "delay '3601s'" + time},
      {"read=error@", "range '': expected START+LENGTH in bytes"},
      {"read=error@4096", "range '4096': expected START+LENGTH in bytes"},
      {"read=error@x+1", "start of range 'x'" + size},
      {"read=error@1+y", "length of range 'y'" + size},
      {"read=error@1+0", "length of range '0': expected at least 1 byte"},
      {"read=error,3", "count '3': expected x and a number, such as x3"},
      {"read=error,x", "count '': expected a number from 1 to 1000000000"},
      {"read=error,x0", "count '0': expected a number from 1 to 1000000000"},
      {"read=error,x1,x2", "count '1,x2': expected a number from 1 to 1000000000"},
  };
  for (const auto& row : rows) {
    const auto rules = parse_fault_rules("any=hang;" + row.rule);
    REQUIRE_FALSE(rules);
    CHECK(rules.error().message == "fault rule '" + row.rule + "': " + row.message);
  }
}

TEST_CASE("the number of rules is bounded") {
  std::string text;
  for (int i = 0; i < 64; ++i)
    text += "read=error;";
  CHECK(parse_fault_rules(text));
  CHECK(parse_fault_rules(text + "read=error").code() == Errc::limit);
}
