// linear, zero, error, and what is common to all.
#include "tests/unit/target/target_test.hpp"

using namespace blockloom;
using namespace blockloom::test;

TEST_CASE("every type is found by its name, and has a version") {
  std::vector<std::string_view> names;
  for (const TargetType& type : target_types()) {
    names.push_back(type.name);
    CHECK(find_target_type(type.name) == &type);
    CHECK(std::count(type.version.begin(), type.version.end(), '.') == 2);
  }
  CHECK(names == std::vector<std::string_view>{"delay", "error", "flakey", "linear", "mirror",
                                               "striped", "zero"});
  CHECK(find_target_type("mirrors") == nullptr);
  CHECK(find_target_type("") == nullptr);
}

TEST_CASE("linear maps to its leg from the offset on") {
  Legs legs;
  auto target = create("0 64 linear mem:64K 32", legs);
  CHECK(target->type() == "linear");
  CHECK(target->legs().size() == 1);
  CHECK(target->chunk() == Bytes(0));
  CHECK(target->copies() == 1);
  CHECK(target->inline_only());
  CHECK_FALSE(target->maps_flush());
  const Data data = noise(4096);
  CHECK(write(*target, 8192, data) == Errc::ok);
  CHECK(read(legs["mem:64K"], 32 * 512 + 8192, 4096) == data);
  CHECK(read(*target, 8192, 4096) == data);
  CHECK(run(*target, Op::zero, 8192, 512) == Errc::ok);
  CHECK(read(*target, 8192, 512) == zeroes(512));
  REQUIRE(legs.asked.size() == 1);
  CHECK(legs.asked[0].offset == Sectors(32));
  CHECK(legs.asked[0].length == Sectors(64));
}

TEST_CASE("linear reports the extents of its leg") {
  Legs legs;
  auto target = create("0 64 linear mem:64K 64", legs);
  REQUIRE(write(*target, 8192, noise(8192)) == Errc::ok);
  TestIo io(Op::extents, 0, 32768);
  CHECK(run(*target, io) == Errc::ok);
  CHECK(io.extents.list() == std::vector{Extent{Bytes(8192), true, true},
                                         Extent{Bytes(8192), false, false},
                                         Extent{Bytes(16384), true, true}});
}

TEST_CASE("zero reads as zeroes and drops what is written") {
  Legs legs;
  auto target = create("0 64 zero", legs);
  CHECK(target->legs().empty());
  CHECK(write(*target, 0, noise(4096)) == Errc::ok);
  CHECK(read(*target, 0, 4096) == zeroes(4096));
  for (const Op op : {Op::flush, Op::trim, Op::zero, Op::cache})
    CHECK(run(*target, op, 0, 512) == Errc::ok);
  TestIo io(Op::extents, 512, 4096);
  CHECK(run(*target, io) == Errc::ok);
  CHECK(io.extents.list() == std::vector{Extent{Bytes(4096), true, true}});
}

TEST_CASE("error fails everything but a flush") {
  Legs legs;
  auto target = create("0 64 error", legs);
  for (const Op op : {Op::read, Op::write, Op::trim, Op::zero, Op::cache, Op::extents})
    CHECK(run(*target, op, 0, 512) == Errc::io);
  CHECK(run(*target, Op::flush, 0, 0) == Errc::ok);
}

TEST_CASE("a target that takes no messages says so") {
  Legs legs;
  const auto answer = create("0 1 zero", legs)->message(std::vector<std::string>{"x"});
  CHECK(answer.code() == Errc::not_supported);
  CHECK(answer.error().message == "target 'zero' takes no messages");
}

TEST_CASE("a line is printed as it was read, whatever the type") {
  for (const std::string text : {
           "linear mem:64K 32",
           "zero",
           "error",
           "striped 1 8 mem:64K 0",
           "striped 2 32 mem:64K 16 mem:128K 0",
           "striped 4 1 mem:64K 0 mem:128K 1 mem:256K 2 mem:64K 64",
           "delay mem:64K 0 100",
           "delay mem:64K 0 0 mem:128K 5 200",
           "delay mem:64K 0 1 mem:128K 5 2 mem:256K 7 4294967295",
           "flakey mem:64K 0 1 2 0",
           "flakey mem:64K 8 0 4294967295 1 error_reads",
           "flakey mem:64K 0 1 2 1 drop_writes",
           "flakey mem:64K 0 1 2 2 error_reads error_writes",
           "flakey mem:64K 0 1 2 5 corrupt_bio_byte 32 r 1 0",
           "flakey mem:64K 0 1 2 6 drop_writes corrupt_bio_byte 1 r 255 131072",
           R"(linear fault:[read=error;write=hang]:mem:64K 0)",
       }) {
    CAPTURE(text);
    Legs legs;
    auto target = create("0 64 " + text, legs);
    const std::string table = target->table();
    CHECK(std::string(target->type()) + (table.empty() ? "" : " ") + table == text);
  }
}

TEST_CASE("a leg's name is escaped where it is printed") {
  const TempDir dir;
  const std::string path = dir.file("a #b\\c", 65536);
  Legs legs;
  auto linear = create("0 64 linear " + escape_word(path) + " 0", legs);
  CHECK(linear->table() == escape_word(path) + " 0");
  auto striped = create("0 64 striped 1 64 " + escape_word(path) + " 0", legs);
  CHECK(striped->table() == "1 64 " + escape_word(path) + " 0");
  CHECK(striped->status() == "1 " + escape_word(path) + " 1 A");
}

TEST_CASE("a bad line is refused with the word and what was expected") {
  const std::string sectors =
      ": expected a number of 512-byte sectors, at most "
      "18014398509481983";
  const struct {
    std::string line, message;
  } rows[] = {
      {"64 linear", "linear: 0 arguments: expected LEG OFFSET"},
      {"64 linear mem:64K", "linear: 1 argument: expected LEG OFFSET"},
      {"64 linear mem:64K 0 0", "linear: 3 arguments: expected LEG OFFSET"},
      {"64 linear mem:64K -1", "linear: offset '-1'" + sectors},
      {"64 linear mem:64K 1s", "linear: offset '1s'" + sectors},
      {"64 linear rbd:a 0",
       "leg 'rbd:a': scheme 'rbd' is unknown: expected file, mem, dev, fault, nbd or iscsi"},
      {"64 linear mem:64K 100", "leg too small"},
      {"64 zero 1", "zero: 1 argument: expected none"},
      {"64 error mem:64K 0", "error: 2 arguments: expected none"},

      {"64 striped",
       "striped: 0 arguments: expected STRIPES CHUNK_SIZE (LEG OFFSET) for each "
       "stripe"},
      {"64 striped 2",
       "striped: 1 argument: expected STRIPES CHUNK_SIZE (LEG OFFSET) for each "
       "stripe"},
      {"64 striped x 8", "striped: number of stripes 'x': expected a number"},
      {"64 striped 0 8", "striped: number of stripes '0': expected at least 1"},
      {"64 striped 4294967296 8",
       "striped: number of stripes '4294967296': expected a number up to 4294967295"},
      {"64 striped 2 0 mem:64K 0 mem:64K 0",
       "striped: chunk size '0': expected a number of sectors from 1 to 4294967295"},
      {"64 striped 2 8k mem:64K 0 mem:64K 0",
       "striped: chunk size '8k': expected a number of sectors from 1 to 4294967295"},
      {"64 striped 2 4294967296 mem:64K 0 mem:64K 0",
       "striped: chunk size '4294967296': expected a number of sectors from 1 to 4294967295"},
      {"63 striped 2 8 mem:64K 0 mem:64K 0",
       "striped: length 63: expected a multiple of the 2 stripes"},
      {"60 striped 2 8 mem:64K 0 mem:64K 0",
       "striped: length 60: expected a multiple of 2 stripes × chunk size 8 = 16"},
      {"64 striped 2 8 mem:64K 0",
       "striped: 2 words after the chunk size: expected 4 for 2 stripes (LEG OFFSET each)"},
      {"64 striped 2 8 mem:64K 0 mem:64K 0 x",
       "striped: 5 words after the chunk size: expected 4 for 2 stripes (LEG OFFSET each)"},
      {"64 striped 2 8 mem:64K 0 mem:64K x", "striped: offset of stripe 1 'x'" + sectors},
      {"64 striped 2 8 mem:64K 0 mem:64K 100", "leg too small"},

      {"64 delay",
       "delay: 0 arguments: expected LEG OFFSET DELAY, once, or again for writes, or "
       "again for writes and for flushes"},
      {"64 delay mem:64K 0 1 mem:64K",
       "delay: 4 arguments: expected LEG OFFSET DELAY, once, or again for writes, or again for "
       "writes and for flushes"},
      {"64 delay mem:64K x 1", "delay: offset 'x'" + sectors},
      {"64 delay mem:64K 0 1ms", "delay: milliseconds '1ms': expected a number"},
      {"64 delay mem:64K 0 4294967296",
       "delay: milliseconds '4294967296': expected a number up to 4294967295"},
      {"64 delay mem:64K 0 1 none 0 1",
       "leg 'none': expected an absolute path, or a URI that starts with file://, mem:, dev:, "
       "fault:, nbd:// or iscsi://"},

      {"64 flakey mem:64K 0 1",
       "flakey: 3 arguments: expected LEG OFFSET UP DOWN [COUNT FEATURE…]"},
      {"64 flakey mem:64K x 1 1", "flakey: offset 'x'" + sectors},
      {"64 flakey mem:64K 0 x 1", "flakey: up interval 'x': expected a number"},
      {"64 flakey mem:64K 0 1 x", "flakey: down interval 'x': expected a number"},
      {"64 flakey mem:64K 0 0 0",
       "flakey: up interval 0 and down interval 0: expected a sum from 1 to 4294967295 seconds"},
      {"64 flakey mem:64K 0 4294967295 1",
       "flakey: up interval 4294967295 and down interval 1: expected a sum from 1 to 4294967295 "
       "seconds"},
      {"64 flakey mem:64K 0 1 1 x", "flakey: number of feature words 'x': expected a number"},
      {"64 flakey mem:64K 0 1 1 2 drop_writes",
       "flakey: number of feature words '2': expected 1, as many as follow"},
      {"64 flakey mem:64K 0 1 1 0 drop_writes",
       "flakey: number of feature words '0': expected 1, as many as follow"},
      {"64 flakey mem:64K 0 1 1 1 lose_writes",
       "flakey: feature 'lose_writes': expected error_reads, error_writes, drop_writes or "
       "corrupt_bio_byte"},
      {"64 flakey mem:64K 0 1 1 2 drop_writes DROP_WRITES",
       "flakey: feature 'DROP_WRITES': expected it once"},
      {"64 flakey mem:64K 0 1 1 2 drop_writes error_writes",
       "flakey: features drop_writes and error_writes: expected one of them"},
      {"64 flakey mem:64K 0 1 1 6 drop_writes corrupt_bio_byte 1 w 0 0",
       "flakey: features drop_writes and corrupt_bio_byte of writes: expected one of them"},
      {"64 flakey mem:64K 0 1 1 6 error_writes corrupt_bio_byte 1 w 0 0",
       "flakey: features error_writes and corrupt_bio_byte of writes: expected one of them"},
      {"64 flakey mem:64K 0 1 1 6 error_reads corrupt_bio_byte 1 r 0 0",
       "flakey: features error_reads and corrupt_bio_byte of reads: expected one of them"},
      {"64 flakey mem:64K 0 1 1 4 corrupt_bio_byte 1 r 0",
       "flakey: corrupt_bio_byte with 3 words: expected NTH DIRECTION VALUE FLAGS"},
      {"64 flakey mem:64K 0 1 1 5 corrupt_bio_byte 0 r 0 0",
       "flakey: corrupt_bio_byte: byte '0': expected at least 1"},
      {"64 flakey mem:64K 0 1 1 5 corrupt_bio_byte 1 x 0 0",
       "flakey: corrupt_bio_byte: direction 'x': expected r or w"},
      {"64 flakey mem:64K 0 1 1 5 corrupt_bio_byte 1 r 256 0",
       "flakey: corrupt_bio_byte: value '256': expected a number up to 255"},
      {"64 flakey mem:64K 0 1 1 5 corrupt_bio_byte 1 r 0 -1",
       "flakey: corrupt_bio_byte: flags '-1': expected a number"},
      {"64 flakey mem:64K 0 1 1 10 corrupt_bio_byte 1 r 0 0 corrupt_bio_byte 1 r 0 0",
       "flakey: feature 'corrupt_bio_byte': expected it once"},
  };
  for (const auto& row : rows) {
    CAPTURE(row.line);
    CHECK(target_refusal("0 " + row.line) == row.message);
  }
}
