#include <doctest/doctest.h>

#include "tests/unit/iscsi/reserving.hpp"

using namespace blockloom;
using namespace blockloom::reserving;

TEST_CASE("keys are registered, changed and taken back, and counted") {
  Two two;
  CHECK(in(two.a, 0) == keys(0, {}));
  CHECK(out(two.a, reg, 0, 0x11).good());
  CHECK(out(two.b, reg, 0, 0x22).good());
  CHECK(in(two.c, 0) == keys(2, {0x11, 0x22}));
  CHECK(out(two.a, reg, 0x99, 0x12).status == conflict);
  CHECK(out(two.a, reg, 0x11, 0x12).good());
  CHECK(out(two.b, reg_ignore, 0x77, 0x23).good());
  CHECK(in(two.c, 0) == keys(4, {0x12, 0x23}));
  CHECK(out(two.a, reg, 0x12, 0).good());
  CHECK(in(two.c, 0) == keys(5, {0x23}));
  CHECK(out(two.c, reg, 0, 0).good());
  CHECK(out(two.c, reg, 5, 6).status == conflict);
  CHECK(in(two.c, 0) == keys(5, {0x23}));
  CHECK(two.c.read({0x5e, 0, 0, 0, 0, 0, 0, 0, 12, 0}, 12).data.size() == 12);
}

TEST_CASE("each type keeps out whom it should") {
  struct Case {
    std::uint8_t type;
    bool registered_reads, registered_writes, other_reads;
  };
  for (const Case& c :
       {Case{1, true, false, true}, Case{3, false, false, false}, Case{5, true, true, true},
        Case{6, true, true, false}, Case{7, true, true, true}, Case{8, true, true, false}}) {
    Two two;
    const auto allowed = [](const Answer& answer) { return answer.status != conflict; };
    REQUIRE(out(two.a, reg, 0, 1).good());
    REQUIRE(out(two.b, reg, 0, 2).good());
    REQUIRE(out(two.a, reserve, 1, 0, c.type).good());
    CHECK(allowed(two.a.read(read_1, 512)));
    CHECK(allowed(two.a.run(write_1, blocks_of(512, 0))));
    CHECK(allowed(two.b.read(read_1, 512)) == c.registered_reads);
    CHECK(allowed(two.b.run(write_1, blocks_of(512, 0))) == c.registered_writes);
    CHECK(allowed(two.c.read(read_1, 512)) == c.other_reads);
    CHECK_FALSE(allowed(two.c.run(write_1, blocks_of(512, 0))));
    CHECK_FALSE(allowed(two.c.read({0x1a, 8, 8, 0, 64, 0}, 64)));
    CHECK(allowed(two.c.run(ready)));
    CHECK(allowed(two.c.read({0x25, 0, 0, 0, 0, 0, 0, 0, 0, 0}, 8)));
    CHECK(allowed(two.c.run({0x1b, 0, 0, 0, 1, 0})));
    CHECK_FALSE(allowed(two.c.run({0x1b, 0, 0, 0, 0, 0})));
    CHECK_FALSE(allowed(two.c.run({0x16, 0, 0, 0, 0, 0})));
    const bool all = c.type >= 7;
    CHECK(in(two.c, 1) == reservation(2, all ? 0 : 1, c.type));
    CHECK(out(two.b, reserve, 2, 0, c.type).good() == all);
    CHECK(out(two.a, reserve, 1, 0, c.type).good());
    CHECK(out(two.a, reserve, 1, 0, c.type == 1 ? 3 : 1).status == conflict);
  }
}

TEST_CASE("a release is for the holder, with its type, and tells registrants of some types") {
  Two two;
  REQUIRE(out(two.a, reg, 0, 1).good());
  REQUIRE(out(two.b, reg, 0, 2).good());
  REQUIRE(out(two.a, reserve, 1, 0, 5).good());
  CHECK(out(two.b, release, 2, 0, 5).good());
  CHECK(in(two.c, 1) == reservation(2, 1, 5));
  CHECK(out(two.a, release, 1, 0, 6).code() == "05/2604");
  CHECK(out(two.a, release, 9, 0, 5).status == conflict);
  CHECK(out(two.a, release, 1, 0, 5).good());
  CHECK(two.b.run(ready).code() == "06/2a04");
  CHECK(two.c.run(ready).good());
  CHECK(two.a.run(ready).good());
  REQUIRE(out(two.a, reserve, 1, 0, 1).good());
  CHECK(out(two.a, release, 1, 0, 1).good());
  CHECK(two.b.run(ready).good());
}

TEST_CASE("the reservation goes with its holder's registration") {
  Two two;
  REQUIRE(out(two.a, reg, 0, 1).good());
  REQUIRE(out(two.b, reg, 0, 2).good());
  REQUIRE(out(two.a, reserve, 1, 0, 6).good());
  CHECK(out(two.a, reg, 1, 0).good());
  CHECK(in(two.c, 1) == keys(3, {}));
  CHECK(two.b.run(ready).code() == "06/2a04");
  REQUIRE(out(two.a, reg, 0, 1).good());
  REQUIRE(out(two.a, reserve, 1, 0, 8).good());
  CHECK(out(two.a, reg, 1, 0).good());
  CHECK(in(two.c, 1) == reservation(5, 0, 8));
  CHECK(out(two.b, reg, 2, 0).good());
  CHECK(in(two.c, 1) == keys(6, {}));
}

TEST_CASE("CLEAR takes everything, and tells those who were registered") {
  Two two;
  REQUIRE(out(two.a, reg, 0, 1).good());
  REQUIRE(out(two.b, reg, 0, 2).good());
  REQUIRE(out(two.a, reserve, 1, 0, 3).good());
  CHECK(out(two.c, clear, 0, 0).status == conflict);
  CHECK(out(two.b, clear, 2, 0).good());
  CHECK(in(two.c, 0) == keys(3, {}));
  CHECK(in(two.c, 1) == keys(3, {}));
  CHECK(two.a.run(ready).code() == "06/2a03");
  CHECK(two.c.run(ready).good());
}

TEST_CASE("PREEMPT takes the reservation over, or registrations away") {
  Two two;
  REQUIRE(out(two.a, reg, 0, 1).good());
  REQUIRE(out(two.b, reg, 0, 2).good());
  REQUIRE(out(two.c, reg, 0, 3).good());
  REQUIRE(out(two.a, reserve, 1, 0, 5).good());
  CHECK(out(two.b, preempt, 2, 0, 5).code() == "05/2600");
  CHECK(out(two.b, preempt, 2, 9, 5).status == conflict);
  CHECK(out(two.b, preempt, 2, 3, 5).good());  // only c's registration
  CHECK(two.c.run(ready).code() == "06/2a05");
  CHECK(in(two.c, 1) == reservation(4, 1, 5));
  CHECK(out(two.b, preempt, 2, 1, 6).good());
  CHECK(two.a.run(ready).code() == "06/2a05");
  CHECK(in(two.c, 0) == keys(5, {2}));
  CHECK(in(two.c, 1) == reservation(5, 2, 6));
  CHECK(two.a.run(write_1, blocks_of(512, 0)).status == conflict);
  // With "all registrants" key 0 means all the others.
  REQUIRE(out(two.b, preempt, 2, 2, 7).good());
  REQUIRE(out(two.a, reg, 0, 1).good());
  CHECK(out(two.a, preempt, 1, 0, 1).good());
  CHECK(in(two.c, 0) == keys(8, {1}));
  CHECK(in(two.c, 1) == reservation(8, 1, 1));
  CHECK(two.b.run(ready).code() == "06/2a05");
}

TEST_CASE("PREEMPT AND ABORT answers when the tasks of the preempted have ended") {
  Bench bench({}, "fault:[read=hang]:mem:1M");
  Initiator a(bench.target, bench.executor, "a"), b(bench.target, bench.executor, "b");
  a.settle();
  b.settle();
  REQUIRE(out(a, reg, 0, 1).good());
  REQUIRE(out(b, reg, 0, 2).good());
  auto hung = b.start(read_1, {}, 512);
  scsi::Output list;
  scsi::append<8>(list, 1);
  scsi::append<8>(list, 2);
  list.resize(24);
  auto aborting = a.start({0x5f, preempt_abort, 1, 0, 0, 0, 0, 0, 24, 0}, list);
  aborting->send_data();
  bench.executor.drain();
  CHECK_FALSE(aborting->ended());
  REQUIRE(
      bench.registry.message("disk", Sectors(0), std::vector<std::string>{"leg", "0", "clear"}));
  CHECK(a.finish(*aborting).good());
  CHECK(hung->ended());
  CHECK(hung->answer().aborted);
}

TEST_CASE("REGISTER AND MOVE hands the reservation to another initiator") {
  Two two;
  REQUIRE(out(two.a, reg, 0, 1).good());
  REQUIRE(out(two.a, reserve, 1, 0, 3).good());
  const auto move = [&](Initiator& from, std::uint64_t key, std::uint64_t new_key,
                        const std::string& to, std::uint16_t port = 1, bool unregister = false) {
    scsi::Output list;
    scsi::append<8>(list, key);
    scsi::append<8>(list, new_key);
    scsi::append<1>(list, 0);
    scsi::append<1>(list, unregister ? 2 : 0);
    scsi::append<2>(list, port);
    scsi::append<4>(list, 0);
    scsi::append_transport_id(
        list, {"iqn.2026-11.test:" + to, std::array<std::uint8_t, 6>{0x80, 0, 0, 0, 0, 1}});
    scsi::store<4>(&list[20], list.size() - 24);
    return from.run({0x5f, reg_move, 0, 0, 0, 0, 0, 0, static_cast<std::uint8_t>(list.size()), 0},
                    list);
  };
  CHECK(move(two.b, 0, 5, "c").status == conflict);
  CHECK(move(two.a, 1, 0, "b").code() == "05/2600");
  CHECK(move(two.a, 1, 5, "a").code() == "05/2600");
  CHECK(move(two.a, 1, 5, "b", 2).code() == "05/2600");
  CHECK(move(two.a, 1, 5, "b", 1, true).good());
  CHECK(in(two.c, 0) == keys(2, {5}));
  CHECK(in(two.c, 1) == reservation(2, 5, 3));
  CHECK(two.b.run(write_1, blocks_of(512, 0)).good());
  CHECK(two.a.run(write_1, blocks_of(512, 0)).status == conflict);
}

TEST_CASE("SPEC_I_PT registers others with oneself, all or none") {
  Two two;
  const auto others = [&](const std::vector<std::string>& names) {
    scsi::Output list;
    scsi::append<8>(list, 0);
    scsi::append<8>(list, 7);
    list.resize(28);
    list[20] = 0x08;
    for (const auto& name : names)
      scsi::append_transport_id(
          list, {"iqn.2026-11.test:" + name, std::array<std::uint8_t, 6>{0x80, 0, 0, 0, 0, 1}});
    scsi::store<4>(&list[24], list.size() - 28);
    return two.a.run({0x5f, reg, 0, 0, 0, 0, 0, 0, static_cast<std::uint8_t>(list.size()), 0},
                     list);
  };
  CHECK(others({"b", "b"}).code() == "05/2600");
  CHECK(others({"a"}).code() == "05/2600");
  CHECK(in(two.c, 0) == keys(0, {}));
  CHECK(others({"b", "x"}).good());
  CHECK(in(two.c, 0) == keys(1, {7, 7, 7}));
  CHECK(out(two.b, reserve, 7, 0, 3).good());
}

TEST_CASE("ALL_TG_PT registers an initiator whichever port it comes through") {
  Bench bench;
  const auto second = ScsiTarget::create("iqn.2026-11.blockloom:u", bench.units);
  second->set_luns(bench.target->luns());
  Initiator a(bench.target, bench.executor), again(second, bench.executor),
      b(second, bench.executor, "b");
  a.settle();
  again.settle();
  b.settle();
  REQUIRE(out(a, reg, 0, 1, 0, 0x04).good());
  REQUIRE(out(a, reserve, 1, 0, 3).good());
  CHECK(again.run(write_1, blocks_of(512, 0)).good());
  CHECK(b.run(write_1, blocks_of(512, 0)).status == conflict);
}

TEST_CASE("READ FULL STATUS and REPORT CAPABILITIES, byte for byte") {
  Two two;
  REQUIRE(out(two.a, reg, 0, 0x11).good());
  REQUIRE(out(two.a, reserve, 0x11, 0, 5).good());
  const std::string name = "iqn.2026-11.test:a,i,0x800000000001";
  scsi::Output expected;
  scsi::append<4>(expected, 1);
  scsi::append<4>(expected, 24 + 4 + 36);
  scsi::append<8>(expected, 0x11);
  scsi::append<4>(expected, 0);
  scsi::append<2>(expected, 0x0105);
  scsi::append<4>(expected, 0);
  scsi::append<2>(expected, 1);
  scsi::append<4>(expected, 4 + 36);
  scsi::append<4>(expected, 0x45000024);
  scsi::append_text(expected, name);
  expected.resize(8 + 24 + 4 + 36);
  CHECK(in(two.b, 3) == expected);
  CHECK(in(two.b, 2) == Octets{0, 8, 0x0d, 0x80, 0xea, 1, 0, 0});
  CHECK(two.b.read({0x5e, 4, 0, 0, 0, 0, 0, 0, 64, 0}, 64).code() == "05/2400");
}

TEST_CASE("bad parameter lists of PERSISTENT RESERVE OUT are refused") {
  Two two;
  CHECK(two.a.run({0x5f, 0, 0, 0, 0, 0, 0, 0, 23, 0}, blocks_of(23, 0)).code() == "05/1a00");
  CHECK(two.a.run({0x5f, 0, 0, 0, 0, 0, 0, 0, 24, 0}, blocks_of(20, 0)).code() == "05/1a00");
  CHECK(two.a.run({0x5f, 0, 0, 0, 0, 0, 0, 0, 25, 0}, blocks_of(25, 0)).code() == "05/1a00");
  CHECK(two.a.run({0x5f, 8, 0, 0, 0, 0, 0, 0, 24, 0}, blocks_of(24, 0)).code() == "05/2400");
  REQUIRE(out(two.a, reg, 0, 1).good());
  CHECK(out(two.a, reserve, 1, 0, 2).code() == "05/2400");
  CHECK(out(two.a, reserve, 1, 0, 0x15).code() == "05/2400");
}

TEST_CASE("RESERVE(6) keeps others out until RELEASE, logout or a reset") {
  Two two;
  const Octets reserve_6{0x16, 0, 0, 0, 0, 0}, release_6{0x17, 0, 0, 0, 0, 0};
  CHECK(two.a.run(reserve_6).good());
  CHECK(two.a.run(reserve_6).good());
  CHECK(two.b.run(reserve_6).status == conflict);
  CHECK(two.b.run(release_6).good());
  CHECK(two.b.run(ready).status == conflict);
  CHECK(two.b.read({0x1a, 8, 8, 0, 64, 0}, 64).status == conflict);
  CHECK(two.b.read({0x12, 0, 0, 0, 96, 0}, 96).good());
  CHECK(two.b.run({0x1e, 0, 0, 0, 0, 0}).good());
  CHECK(two.b.run({0x1e, 0, 0, 0, 1, 0}).status == conflict);
  CHECK(out(two.a, reg, 0, 1).status == conflict);
  CHECK(two.a.read({0x1a, 8, 8, 0, 64, 0}, 64).good());
  CHECK(two.a.run(release_6).good());
  CHECK(two.b.run({0x56, 0, 0, 0, 0, 0, 0, 0, 0, 0}).good());
  two.b.lose();
  CHECK(two.a.run(reserve_6).good());
  CHECK(two.c.manage(TaskFunction::logical_unit_reset) == TaskResponse::complete);
  CHECK(two.c.run(ready).code() == "06/2903");
  CHECK(two.c.run(reserve_6).good());
}
