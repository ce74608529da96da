#include <doctest/doctest.h>

#include "tests/unit/iscsi/initiator.hpp"

using namespace blockloom;

namespace {

const Octets caching{0x08, 18, 4, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0};
const Octets control{0x0a, 10, 2, 0x10, 0, 0, 0, 0, 0xff, 0xff, 0, 0};
const Octets informational{0x1c, 10, 8, 0, 0, 0, 0, 0, 0, 0, 0, 0};
const Octets descriptor{0, 0, 8, 0, 0, 0, 2, 0};  // 2048 blocks of 512

Octets sense_6(std::uint8_t page, std::uint8_t flags = 8) {
  return {0x1a, flags, page, 0, 255, 0};
}

Octets select_6(std::size_t size) {
  return {0x15, 0x10, 0, 0, static_cast<std::uint8_t>(size), 0};
}

}  // namespace

TEST_CASE("MODE SENSE(6) and (10), byte for byte") {
  Bench bench;
  Initiator a(bench.target, bench.executor);
  a.settle();
  CHECK(a.read(sense_6(0x08), 255).data == Octets{23, 0, 0x10, 0} + caching);
  CHECK(a.read(sense_6(0x0a), 255).data == Octets{15, 0, 0x10, 0} + control);
  CHECK(a.read(sense_6(0x1c), 255).data == Octets{15, 0, 0x10, 0} + informational);
  CHECK(a.read(sense_6(0x3f), 255).data ==
        Octets{47, 0, 0x10, 0} + caching + control + informational);
  CHECK(a.read(sense_6(0x08, 0), 255).data == Octets{31, 0, 0x10, 8} + descriptor + caching);
  CHECK(a.read({0x5a, 8, 0x08, 0, 0, 0, 0, 1, 0, 0}, 256).data ==
        Octets{0, 26, 0, 0x10, 0, 0, 0, 0} + caching);
  CHECK(a.read({0x5a, 0x10, 0x0a, 0, 0, 0, 0, 1, 0, 0}, 256).data ==
        Octets{0, 34, 0, 0x10, 1, 0, 0, 16} +
            Octets{0, 0, 0, 0, 0, 0, 8, 0, 0, 0, 0, 0, 0, 0, 2, 0} + control);
  CHECK(a.read(sense_6(0x02), 255).code() == "05/2400");
  CHECK(a.read(sense_6(0xc8), 255).code() == "05/3900");
  CHECK(a.read({0x1a, 8, 0x08, 0, 4, 0}, 255).data == Octets{23, 0, 0x10, 0});
}

TEST_CASE("the changeable values are the cache, the sense format and the write protection") {
  Bench bench;
  Initiator a(bench.target, bench.executor);
  a.settle();
  Octets mask(20);
  mask[0] = 0x08, mask[1] = 18, mask[2] = 4;
  CHECK(a.read(sense_6(0x48), 255).data == Octets{23, 0, 0x10, 0} + mask);
  CHECK(a.read(sense_6(0x4a), 255).data ==
        Octets{15, 0, 0x10, 0} + Octets{0x0a, 10, 4, 0, 8, 0, 0, 0, 0, 0, 0, 0});
}

TEST_CASE("MODE SELECT changes the sense format, and other sessions hear of it") {
  Bench bench;
  Initiator a(bench.target, bench.executor, "a"), b(bench.target, bench.executor, "b");
  a.settle();
  b.settle();
  Octets page = control;
  page[2] |= 4;
  CHECK(a.run(select_6(16), Octets{0, 0, 0, 0} + page).good());
  CHECK(b.run({0, 0, 0, 0, 0, 0}).code() == "06/2a01");
  CHECK(b.run({0, 0, 0, 0, 0, 0}).good());
  CHECK(a.run({0, 0, 0, 0, 0, 0}).good());
  const Answer refused = a.read({0x28, 0, 0xff, 0, 0, 0, 0, 0, 1, 0}, 512);
  CHECK(refused.code() == "05/2100");
  CHECK(refused.sense[0] == 0x72);
  // A reset brings the defaults back.
  CHECK(a.manage(TaskFunction::logical_unit_reset) == TaskResponse::complete);
  CHECK(a.run({0, 0, 0, 0, 0, 0}).sense[0] == 0x70);
}

TEST_CASE("SWP protects what could be written, and shows in the header") {
  Bench bench;
  Initiator a(bench.target, bench.executor);
  a.settle();
  Octets page = control;
  page[4] |= 8;
  CHECK(a.run({0x55, 0x10, 0, 0, 0, 0, 0, 0, 20, 0}, blocks_of(8, 0) + page).good());
  CHECK(a.read(sense_6(0x0a), 255).data[2] == 0x90);
  CHECK(a.run({0x2a, 0, 0, 0, 0, 0, 0, 0, 1, 0}, blocks_of(512, 0)).code() == "07/2700");
  CHECK(a.run({0x55, 0x10, 0, 0, 0, 0, 0, 0, 20, 0}, blocks_of(8, 0) + control).good());
  CHECK(a.run({0x2a, 0, 0, 0, 0, 0, 0, 0, 1, 0}, blocks_of(512, 0)).good());
}

TEST_CASE("without the write cache every write is durable before it ends") {
  Bench bench({}, "fault:[flush=error]:mem:1M");
  Initiator a(bench.target, bench.executor);
  a.settle();
  Octets page = caching;
  page[2] = 0;
  CHECK(a.run(select_6(24), Octets{0, 0, 0, 0} + page).good());
  CHECK(a.read(sense_6(0x08), 255).data[6] == 0);
}

TEST_CASE("a bad MODE SELECT list changes nothing, and its sense names the byte") {
  Bench bench;
  Initiator a(bench.target, bench.executor);
  a.settle();
  const auto refused = [&](const Octets& list, const std::string& code, int field) {
    const Answer answer = a.run(select_6(list.size()), list);
    CHECK(answer.code() == code);
    if (field >= 0)
      CHECK(Octets(answer.sense.begin() + 15, answer.sense.end()) ==
            Octets{0x80, 0, static_cast<std::uint8_t>(field)});
  };
  const Octets header{0, 0, 0, 0};
  Octets page = control;
  page[3] = 0;
  refused(header + page, "05/2600", 7);
  page = control;
  page[0] = 0x09;
  refused(header + page, "05/2600", 4);
  page = control;
  page[1] = 9;
  refused(header + page, "05/2600", 5);
  refused(header + Octets(control.begin(), control.begin() + 11), "05/1a00", -1);
  refused({0, 0}, "05/1a00", -1);
  refused(Octets{0, 0, 0, 7} + control, "05/2600", 3);
  Octets bad = descriptor;
  bad[6] = 4;
  refused(Octets{0, 0, 0, 8} + bad, "05/2600", 9);
  CHECK(a.run(select_6(4 + 8 + 12), Octets{0, 0, 0, 8} + descriptor + control).good());
  CHECK(a.run({0x15, 0x11, 0, 0, 16, 0}, header + control).code() == "05/2400");
  CHECK(a.run({0x15, 0x00, 0, 0, 16, 0}, header + control).code() == "05/2400");
  CHECK(a.run({0x15, 0x10, 0, 0, 0, 0}).good());
  CHECK(a.run({0x15, 0x10, 0, 0, 20, 0}, header + control).code() == "05/1a00");
  CHECK(a.read(sense_6(0x0a), 255).data == Octets{15, 0, 0x10, 0} + control);
}

TEST_CASE("stopping flushes, and takes nothing from other sessions") {
  Bench bench;
  Initiator a(bench.target, bench.executor);
  a.settle();
  CHECK(a.run({0x1b, 0, 0, 0, 0, 0}).good());
  CHECK(bench.device().leg_infos()[0].totals.others == 1);
  CHECK(a.run({0, 0, 0, 0, 0, 0}).good());
  CHECK(a.run({0x1b, 0, 0, 0, 1, 0}).good());
  CHECK(a.run({0x1b, 0, 0, 0, 2, 0}).code() == "05/2400");
  CHECK(a.run({0x1e, 0, 0, 0, 1, 0}).good());
  CHECK(a.run({0x1e, 0, 0, 0, 0, 0}).good());
  CHECK(a.run({0x1e, 0, 0, 0, 2, 0}).code() == "05/2400");
}

TEST_CASE("the medium of a removable unit comes out, unless somebody prevents that") {
  UnitOptions options;
  options.removable = true;
  Bench bench(options);
  Initiator a(bench.target, bench.executor, "a"), b(bench.target, bench.executor, "b");
  a.settle();
  b.settle();
  CHECK(a.read({0x12, 0, 0, 0, 96, 0}, 96).data[1] == 0x80);
  CHECK(b.run({0x1e, 0, 0, 0, 1, 0}).good());
  CHECK(a.run({0x1b, 0, 0, 0, 2, 0}).code() == "05/5302");
  b.lose();
  CHECK(a.run({0x1b, 0, 0, 0, 2, 0}).good());
  CHECK(a.run({0, 0, 0, 0, 0, 0}).code() == "02/3a00");
  CHECK(a.read({0x28, 0, 0, 0, 0, 0, 0, 0, 1, 0}, 512).code() == "02/3a00");
  CHECK(a.run({0x2a, 0, 0, 0, 0, 0, 0, 0, 1, 0}, blocks_of(512, 0)).code() == "02/3a00");
  CHECK(a.run({0x42, 0, 0, 0, 0, 0, 0, 0, 8, 0}, blocks_of(8, 0)).code() == "02/3a00");
  CHECK(a.read({0x25, 0, 0, 0, 0, 0, 0, 0, 0, 0}, 8).code() == "02/3a00");
  CHECK(a.read({0x9e, 0x12, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 64, 0, 0}, 64).code() == "02/3a00");
  Initiator c(bench.target, bench.executor, "c");
  c.settle();
  CHECK(c.run({0x1e, 0, 0, 0, 1, 0}).good());
  CHECK(a.run({0x1b, 0, 0, 0, 3, 0}).code() == "05/5302");
  CHECK(c.run({0x1e, 0, 0, 0, 0, 0}).good());
  CHECK(a.run({0x1b, 0, 0, 0, 3, 0}).good());
  CHECK(a.run({0, 0, 0, 0, 0, 0}).good());
  CHECK(c.run({0, 0, 0, 0, 0, 0}).code() == "06/2800");
}
