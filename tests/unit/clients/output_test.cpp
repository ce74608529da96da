// The texts that people and their scripts read: dmsetup's, to the letter.
#include "clients/blockloom/output.hpp"

#include <cstdlib>
#include <ctime>

#include <doctest/doctest.h>

#include "tests/unit/clients/values.hpp"

using namespace blockloom;
using namespace blockloom::cli;

namespace {

const char* const none = R"({"devices":[]})";

const char* const two_infos = R"({"devices":[
  {"name":"vol0","uuid":"U-1","minor":0,"suspended":false,"read_only":false,
   "deferred_remove":false,"live_table":true,"inactive_table":false,"targets":2,"sectors":16,
   "open_count":1,"event_number":3,"queued":0,"lease_left_s":0,"failure":""},
  {"name":"a-name-longer-than-sixteen","uuid":"","minor":12,"suspended":true,"read_only":true,
   "deferred_remove":true,"live_table":true,"inactive_table":true,"targets":1,"sectors":8,
   "open_count":0,"event_number":0,"queued":4,"lease_left_s":2.5,"failure":"leg '/x': gone"}]})";

}  // namespace

TEST_CASE("ls") {
  CHECK(ls_text(value(none)) == "No devices found\n");
  CHECK(ls_text(value(R"({"devices":[{"name":"a","minor":0},{"name":"b","minor":7}]})")) ==
        "a\t(254:0)\nb\t(254:7)\n");
}

TEST_CASE("ls --tree draws a stack as dmsetup does") {
  const auto tree = value(R"({"devices":[
    {"name":"low","minor":0,"legs":[{"uri":"/a.img","device":""}],"holders":["top"]},
    {"name":"top","minor":1,"legs":[{"uri":"dev:low","device":"low"},{"uri":"/b.img","device":""}],"holders":[]},
    {"name":"zero","minor":2,"legs":[],"holders":[]}]})");
  CHECK(tree_text(tree) ==
        "top (254:1)\n"
        " ├─low (254:0)\n"
        " │  └─ (/a.img)\n"
        " └─ (/b.img)\n"
        "zero (254:2)\n");
  CHECK(tree_text(value(none)) == "No devices found\n");
}

TEST_CASE("a tree that loops, which no server sends, ends") {
  const auto tree = value(R"({"devices":[
    {"name":"a","minor":0,"legs":[{"uri":"dev:b","device":"b"}],"holders":[]},
    {"name":"b","minor":1,"legs":[{"uri":"dev:a","device":"a"}],"holders":["a"]}]})");
  CHECK(tree_text(tree).size() < 200);
}

TEST_CASE("info") {
  CHECK(info_text(value(two_infos)) ==
        "Name:              vol0\n"
        "State:             ACTIVE\n"
        "Read Ahead:        0\n"
        "Tables present:    LIVE\n"
        "Open count:        1\n"
        "Event number:      3\n"
        "Major, minor:      254, 0\n"
        "Number of targets: 2\n"
        "UUID: U-1\n"
        "\n"
        "Name:              a-name-longer-than-sixteen\n"
        "State:             SUSPENDED (READ-ONLY) (DEFERRED REMOVE)\n"
        "Read Ahead:        0\n"
        "Tables present:    LIVE & INACTIVE\n"
        "Open count:        0\n"
        "Event number:      0\n"
        "Major, minor:      254, 12\n"
        "Number of targets: 1\n"
        "Goes on in:        2.50 s\n"
        "Queued requests:   4\n"
        "Failure:           leg '/x': gone\n"
        "\n");
  CHECK(info_text(value(none)) == "No devices found\n");
  const auto empty = value(R"({"devices":[{"name":"a"}]})");
  CHECK(info_text(empty).find("Tables present:    None\n") != std::string::npos);
}

TEST_CASE("info -c") {
  CHECK(info_columns(value(two_infos), true) ==
        "Name             Maj Min Stat Open Targ Event  UUID\n"
        "vol0             254   0 L--w    1    2      3 U-1\n"
        "a-name-longer-than-sixteen 254  12 LIsr    0    1      0 \n");
  CHECK(info_columns(value(two_infos), false) ==
        "vol0:254:0:L--w:1:2:3:U-1\n"
        "a-name-longer-than-sixteen:254:12:LIsr:0:1:0:\n");
  CHECK(info_columns(value(none), true) == "No devices found\n");
}

TEST_CASE("table and status: a name before each line only where it is needed") {
  const auto two = value(R"({"devices":[{"name":"a","lines":["0 8 linear /x 0","8 8 zero "]},
                                        {"name":"b","lines":[]}]})");
  CHECK(lines_text(two, true) == "a: 0 8 linear /x 0\na: 8 8 zero \nb: \n");
  const auto one = value(R"({"devices":[{"name":"a","lines":["0 8 linear /x 0"]}]})");
  CHECK(lines_text(one, false) == "0 8 linear /x 0\n");
  CHECK(lines_text(value(none), true) == "No devices found\n");
}

TEST_CASE("deps") {
  const auto one = value(R"({"devices":[{"name":"a","legs":[{"uri":"/a.img"},{"uri":"dev:b"}]}]})");
  CHECK(deps_text(one, false) == "2 dependencies\t: (/a.img) (dev:b)\n");
  CHECK(deps_text(one, true) == "a: 2 dependencies\t: (/a.img) (dev:b)\n");
}

TEST_CASE("targets") {
  CHECK(targets_text(value(R"({"targets":[{"name":"linear","version":"1.4.0"}]})")) ==
        "linear           v1.4.0\n");
}

TEST_CASE("apply says what it did and how long I/O was paused") {
  const auto report =
      value(R"({"created":["a"],"swapped":["b","c"],"unchanged":["d"],"pause_s":0.00123})");
  CHECK(apply_text(report, false) ==
        "created a\nswapped b\nswapped c\nunchanged d\nI/O was paused for 1.23 ms\n");
  CHECK(apply_text(report, true) == "would create a\nwould swap b\nwould swap c\nunchanged d\n");
}

TEST_CASE("events") {
  ::setenv("TZ", "UTC", 1);
  ::tzset();
  CHECK(event_text(value(R"({"sequence":7,"time_s":86400.25,"device":"a","event_number":1,
                            "kind":"renamed","detail":"from 'b'"})")) ==
        "1970-01-02 00:00:00.250      7 a                renamed        from 'b'\n");
}

TEST_CASE("attach-help leaves out what a client cannot do") {
  const auto help = value(R"({"name":"a","endpoints":[
    {"uri":"nbd://h:1/a","nbd_client":"nbd-client h 1 /dev/nbd0 -N a","nbdinfo":"nbdinfo nbd://h:1/a",
     "qemu":"","nbdtab":"nbd0 h a port=1"}]})");
  CHECK(attach_text(help) ==
        "nbd://h:1/a\n"
        "  nbd-client h 1 /dev/nbd0 -N a\n"
        "  nbdinfo nbd://h:1/a\n"
        "  /etc/nbdtab: nbd0 h a port=1\n");
}

TEST_CASE("times have three digits and a unit") {
  CHECK(time_text(0) == "0.00 us");
  CHECK(time_text(0.0000123) == "12.3 us");
  CHECK(time_text(0.123) == "123 ms");
  CHECK(time_text(61.5) == "61.5 s");
}
