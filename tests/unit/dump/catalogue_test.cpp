#include "server/dump/catalogue.hpp"

#include <doctest/doctest.h>

using namespace blockloom;
using namespace blockloom::dump;

namespace {

Catalogue example() {
  Catalogue catalogue;
  StoredDump& dump = catalogue.dumps[{"web1", "20260102T030405Z"}];
  dump.image_name = "vmcore.zst";
  dump.length = 3 * store_block + 7;
  dump.finished = true;
  dump.image = {{100, 2}, {200, 2}};
  dump.files["record.json"] = {2, "{}", {}};
  dump.files["dmesg.txt"] = {5000, "", {{300, 2}}};
  catalogue.dumps[{"web2", "20260102T030405Z.2"}];
  catalogue.logs["web1"] = {3, "abc", {}};
  return catalogue;
}

Result<Catalogue> back(const std::string& text) {
  return parse_catalogue(as_bytes(text), 66, 1000);
}

}  // namespace

TEST_CASE("a catalogue reads back as it was written") {
  const auto parsed = back(catalogue_text(example()));
  REQUIRE_MESSAGE(parsed, parsed.error().message);
  CHECK(parsed.value() == example());
  CHECK(back(catalogue_text({})).value() == Catalogue{});
}

TEST_CASE("a catalogue that was cut, or has more behind it, is refused") {
  const std::string text = catalogue_text(example());
  for (std::size_t n = 0; n < text.size(); ++n)
    CHECK(back(text.substr(0, n)).code() == Errc::corrupt);
  CHECK(back(text + '\0').code() == Errc::corrupt);
}

TEST_CASE("runs that overlap, or lie outside the data, are refused") {
  const auto refused = [](BlockRun run) {
    Catalogue catalogue = example();
    catalogue.dumps.rbegin()->second.image = {run};
    return back(catalogue_text(catalogue)).code() == Errc::corrupt;
  };
  CHECK_FALSE(refused({400, 4}));
  CHECK(refused({101, 1}));        // another dump's
  CHECK(refused({299, 2}));        // a file's
  CHECK(refused({65, 2}));         // the catalogue itself
  CHECK(refused({999, 2}));        // the end
  CHECK(refused({~0ull - 1, 4}));  // wraps
  CHECK(refused({400, 0}));
}

TEST_CASE("names that are none, and lengths that do not fit, are refused") {
  Catalogue catalogue = example();
  catalogue.dumps.begin()->second.files["../x"] = {};
  CHECK(back(catalogue_text(catalogue)).code() == Errc::corrupt);
  catalogue = example();
  catalogue.dumps[{"..", "20260102T030405Z"}];
  CHECK(back(catalogue_text(catalogue)).code() == Errc::corrupt);
  catalogue = example();
  catalogue.dumps.begin()->second.length = 4 * store_block + 1;
  CHECK(back(catalogue_text(catalogue)).code() == Errc::corrupt);
  catalogue = example();
  catalogue.logs["web1"].length = 4;
  CHECK(back(catalogue_text(catalogue)).code() == Errc::corrupt);
}

TEST_CASE("superblock and generation read back, and a flipped bit is noticed") {
  Superblock superblock;
  superblock.uuid[3] = std::byte{7};
  superblock.slot_blocks = slot_blocks_for(1000);
  std::string block = superblock_text(superblock);
  CHECK(parse_superblock(as_bytes(block), 1000).value() == superblock);
  CHECK(parse_superblock(as_bytes(block), 60).code() == Errc::corrupt);  // a device that shrank
  Generation generation;
  generation.number = 9;
  generation.length = 77;
  generation.owner.pid = 4711;
  std::string header = generation_text(generation, superblock.uuid);
  const auto parsed = parse_generation(as_bytes(header), superblock);
  REQUIRE(parsed);
  CHECK(parsed.value().number == 9);
  CHECK(parsed.value().length == 77);
  CHECK(parsed.value().owner == generation.owner);
  for (std::size_t i = 0; i < block.size(); i += 17) {
    block[i] = static_cast<char>(block[i] ^ 4);
    header[i] = static_cast<char>(header[i] ^ 4);
    CHECK(parse_superblock(as_bytes(block), 1000).code() == Errc::corrupt);
    CHECK(parse_generation(as_bytes(header), superblock).code() == Errc::corrupt);
    block[i] = static_cast<char>(block[i] ^ 4);
    header[i] = static_cast<char>(header[i] ^ 4);
  }
  // One of the store that was here before.
  superblock.uuid[3] = std::byte{8};
  CHECK(parse_generation(as_bytes(header), superblock).code() == Errc::corrupt);
}

TEST_CASE("free blocks are taken behind the last, in the first gap, or from the largest") {
  FreeBlocks free(10, 110);
  CHECK(free.take(4) == BlockRun{10, 4});
  CHECK(free.take(4, 50) == BlockRun{14, 4});  // 50 does not begin a gap
  CHECK(free.take_exactly({40, 10}));
  CHECK_FALSE(free.take_exactly({35, 10}));
  CHECK_FALSE(free.take_exactly({105, 10}));
  CHECK(free.take(4, 50) == BlockRun{50, 4});
  CHECK(free.take(100, 0, 16) == BlockRun{54, 48});  // 56 are left there: whole units first
  free.give({40, 10});
  CHECK(free.count() == 40);
  CHECK(free.take(100) == BlockRun{18, 32});
  CHECK(free.take(100) == BlockRun{102, 8});
  CHECK(free.take(1) == BlockRun{});
  free.give({10, 2});
  free.give({14, 2});
  free.give({12, 2});
  CHECK(free.take(6) == BlockRun{10, 6});
}
