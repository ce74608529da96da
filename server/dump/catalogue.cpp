#include "server/dump/catalogue.hpp"

#include <algorithm>
#include <cstring>
#include <iterator>

#include <fmt/format.h>

#include "proto/dump/crc32c.hpp"
#include "proto/dump/stream_wire.hpp"
#include "server/base/units.hpp"

namespace blockloom::dump {
namespace {

constexpr std::string_view superblock_magic{"BLOCKLOOM DUMPS\0", 16};
constexpr std::string_view generation_magic{"DUMPGEN\0", 8};
constexpr std::uint32_t version = 1;
constexpr std::size_t crc_at = store_block - 4;
constexpr std::uint64_t slot_blocks_max = 8192;  // 32 MiB
constexpr std::size_t name_max = 64;

/// Numbers and texts one after the other; numbers as the stream protocol has them.
class Writer {
 public:
  void number(std::uint64_t value, std::size_t size) {
    unsigned char bytes[8];
    wire::put(bytes, value, static_cast<int>(size));
    out_.append(reinterpret_cast<const char*>(bytes), size);
  }
  void raw(std::string_view bytes) { out_ += bytes; }
  void text(std::string_view bytes) {
    number(bytes.size(), 4);
    out_ += bytes;
  }
  std::string take() { return std::move(out_); }

 private:
  std::string out_;
};

/// After the first thing that is not there, everything is 0 or empty, and good() is false.
class Reader {
 public:
  explicit Reader(ByteView bytes) : bytes_(bytes) {}
  std::uint64_t number(std::size_t size) {
    const ByteView part = raw(size);
    return part.empty() ? 0
                        : wire::get(reinterpret_cast<const unsigned char*>(part.data()),
                                    static_cast<int>(size));
  }
  ByteView raw(std::size_t size) {
    if (!good_ || size > bytes_.size()) {
      good_ = false;
      return {};
    }
    const ByteView part = bytes_.first(size);
    bytes_ = bytes_.subspan(size);
    return part;
  }
  std::string text() { return std::string(as_text(raw(number(4)))); }
  std::string name() {
    std::string found = text();
    if (found.empty() || found != safe_host(found)) good_ = false;
    return found;
  }
  /// How many things of at least `size` bytes follow.
  std::size_t count(std::size_t size) {
    const std::uint64_t n = number(4);
    if (n > bytes_.size() / size) good_ = false;
    return good_ ? n : 0;
  }
  void fail() noexcept { good_ = false; }
  bool good() const noexcept { return good_; }
  bool at_end() const noexcept { return bytes_.empty(); }

 private:
  ByteView bytes_;
  bool good_ = true;
};

bool whole_block(ByteView block) {
  return block.size() == store_block &&
         wire::get(reinterpret_cast<const unsigned char*>(block.data()) + crc_at, 4) ==
             crc32c(0, block.data(), crc_at);
}

void put_runs(Writer& out, const std::vector<BlockRun>& runs) {
  out.number(runs.size(), 4);
  for (const BlockRun& run : runs) {
    out.number(run.begin, 8);
    out.number(run.count, 8);
  }
}

void put_file(Writer& out, const StoredFile& file) {
  out.number(file.length, 8);
  put_runs(out, file.blocks);
  if (file.blocks.empty()) out.text(file.bytes);
}

/// What was read so far, and what of the device is free still.
struct Parse {
  Reader in;
  FreeBlocks free;

  std::vector<BlockRun> runs() {
    std::vector<BlockRun> all;
    for (std::size_t n = in.count(16); n > 0 && in.good(); --n) {
      const BlockRun run{in.number(8), in.number(8)};
      if (!free.take_exactly(run)) in.fail();
      all.push_back(run);
    }
    return all;
  }
  StoredFile file() {
    StoredFile found;
    found.length = in.number(8);
    found.blocks = runs();
    if (found.blocks.empty()) found.bytes = in.text();
    if (found.length > (found.blocks.empty() ? found.bytes.size() : bytes_in(found.blocks)))
      in.fail();
    return found;
  }
};

}  // namespace

std::uint64_t bytes_in(const std::vector<BlockRun>& runs) noexcept {
  std::uint64_t blocks = 0;
  for (const BlockRun& run : runs)
    blocks += run.count;
  return blocks * store_block;
}

std::uint64_t slot_blocks_for(std::uint64_t blocks) noexcept {
  // A 64th of the device for both, from 128 KiB to 32 MiB each.
  return std::clamp<std::uint64_t>(blocks / 128, 32, slot_blocks_max);
}

std::string checked_block(std::string bytes) {
  bytes.resize(store_block);
  unsigned char crc[4];
  wire::put(crc, crc32c(0, bytes.data(), crc_at), 4);
  std::memcpy(bytes.data() + crc_at, crc, 4);
  return bytes;
}

std::string superblock_text(const Superblock& superblock) {
  Writer out;
  out.raw(superblock_magic);
  out.number(version, 4);
  out.number(store_block, 4);
  out.raw(as_text(superblock.uuid));
  out.number(superblock.slot_blocks, 8);
  return checked_block(out.take());
}

Result<Superblock> parse_superblock(ByteView block, std::uint64_t blocks) {
  Reader in(block);
  if (!whole_block(block) || as_text(in.raw(superblock_magic.size())) != superblock_magic)
    return Error{Errc::corrupt, "no superblock of a dump store"};
  if (const std::uint64_t found = in.number(4); found != version)
    return Error{
        Errc::not_supported,
        fmt::format("a dump store of version {}: this server knows version {}", found, version)};
  const std::uint64_t size = in.number(4);
  Superblock superblock;
  const ByteView uuid = in.raw(superblock.uuid.size());
  std::copy(uuid.begin(), uuid.end(), superblock.uuid.begin());
  superblock.slot_blocks = in.number(8);
  if (size != store_block || superblock.slot_blocks < 2 ||
      superblock.slot_blocks > slot_blocks_max || superblock.data_begin() >= blocks)
    return Error{Errc::corrupt,
                 fmt::format("a dump store with a catalogue of {} blocks on a device of {}",
                             superblock.slot_blocks, blocks)};
  return superblock;
}

std::string generation_text(const Generation& generation, const StoreUuid& store) {
  Writer out;
  out.raw(generation_magic);
  out.raw(as_text(store));
  out.number(generation.number, 8);
  out.number(generation.length, 8);
  out.number(generation.crc, 4);
  out.raw(as_text(generation.owner.server));
  out.number(generation.owner.boot, 8);
  out.number(generation.owner.since, 8);
  out.number(generation.owner.pid, 4);
  out.number(generation.owner.in_use ? 1 : 0, 1);
  return checked_block(out.take());
}

Result<Generation> parse_generation(ByteView block, const Superblock& superblock) {
  Reader in(block);
  if (!whole_block(block) || as_text(in.raw(generation_magic.size())) != generation_magic ||
      as_text(in.raw(superblock.uuid.size())) != as_text(superblock.uuid))
    return Error{Errc::corrupt, "no generation of this store"};
  Generation found;
  found.number = in.number(8);
  found.length = in.number(8);
  found.crc = static_cast<std::uint32_t>(in.number(4));
  const ByteView server = in.raw(found.owner.server.size());
  std::copy(server.begin(), server.end(), found.owner.server.begin());
  found.owner.boot = in.number(8);
  found.owner.since = in.number(8);
  found.owner.pid = static_cast<std::uint32_t>(in.number(4));
  found.owner.in_use = in.number(1) != 0;
  if (found.length > (superblock.slot_blocks - 1) * store_block)
    return Error{Errc::corrupt, fmt::format("a generation of {} bytes", found.length)};
  return found;
}

std::string catalogue_text(const Catalogue& catalogue) {
  Writer out;
  out.number(catalogue.dumps.size(), 4);
  for (const auto& [id, dump] : catalogue.dumps) {
    out.text(id.text());
    out.text(dump.image_name);
    out.number(dump.length, 8);
    out.number(dump.finished ? 1 : 0, 1);
    put_runs(out, dump.image);
    out.number(dump.files.size(), 4);
    for (const auto& [name, file] : dump.files) {
      out.text(name);
      put_file(out, file);
    }
  }
  out.number(catalogue.logs.size(), 4);
  for (const auto& [host, log] : catalogue.logs) {
    out.text(host);
    put_file(out, log);
  }
  return out.take();
}

Result<Catalogue> parse_catalogue(ByteView payload, std::uint64_t data_begin,
                                  std::uint64_t blocks) {
  Parse parse{Reader(payload), FreeBlocks(data_begin, blocks)};
  Reader& in = parse.in;
  Catalogue catalogue;
  const auto broken = [](std::string_view what) {
    return Error{Errc::corrupt, fmt::format("the catalogue of dumps is broken: {}", what)};
  };
  for (std::size_t n = in.count(25); n > 0 && in.good(); --n) {
    auto id = parse_dump_id(in.text());
    if (!id) return broken(id.error().message);
    const auto [place, fresh] = catalogue.dumps.try_emplace(*id);
    if (!fresh) return broken("a dump is there twice");
    StoredDump& dump = place->second;
    dump.image_name = in.text();
    if (!dump.image_name.empty() && dump.image_name != safe_host(dump.image_name))
      return broken("an image's name is not a name");
    dump.length = in.number(8);
    dump.finished = in.number(1) != 0;
    dump.image = parse.runs();
    if (dump.length > bytes_in(dump.image)) in.fail();
    for (std::size_t files = in.count(20); files > 0 && in.good(); --files) {
      std::string name = in.name();
      if (!dump.files.emplace(std::move(name), parse.file()).second)
        return broken("a file is there twice");
    }
  }
  for (std::size_t n = in.count(20); n > 0 && in.good(); --n) {
    std::string host = in.name();
    if (!catalogue.logs.emplace(std::move(host), parse.file()).second)
      return broken("a log is there twice");
  }
  if (!in.good() || !in.at_end()) return broken("its lengths, names or blocks do not fit");
  return catalogue;
}

// --- Free blocks ------------------------------------------------------------------------------

BlockRun FreeBlocks::cut(std::uint64_t gap, std::uint64_t begin, std::uint64_t count) {
  const auto found = gaps_.find(gap);
  const std::uint64_t end = gap + found->second;
  gaps_.erase(found);
  if (begin > gap) gaps_[gap] = begin - gap;
  if (begin + count < end) gaps_[begin + count] = end - begin - count;
  count_ -= count;
  return {begin, count};
}

BlockRun FreeBlocks::take(std::uint64_t count, std::uint64_t after, std::uint64_t unit) {
  if (count == 0 || gaps_.empty()) return {};
  if (const auto next = gaps_.find(after); after != 0 && next != gaps_.end())
    if (const std::uint64_t n = round_down(std::min(count, next->second), unit); n > 0)
      return cut(after, after, n);
  auto best = gaps_.end();
  for (auto gap = gaps_.begin(); gap != gaps_.end(); ++gap) {
    if (gap->second >= count) return cut(gap->first, gap->first, count);
    if (best == gaps_.end() || gap->second > best->second) best = gap;
  }
  const std::uint64_t whole = round_down(best->second, unit);
  return cut(best->first, best->first, whole > 0 ? whole : best->second);
}

bool FreeBlocks::take_exactly(const BlockRun& run) {
  const auto next = gaps_.upper_bound(run.begin);
  if (run.count == 0 || next == gaps_.begin()) return false;
  const auto gap = std::prev(next);
  const std::uint64_t into = run.begin - gap->first;
  if (into >= gap->second || run.count > gap->second - into) return false;
  cut(gap->first, run.begin, run.count);
  return true;
}

void FreeBlocks::give(const BlockRun& run) {
  if (run.count == 0) return;
  count_ += run.count;
  BlockRun whole = run;
  const auto next = gaps_.lower_bound(run.begin);
  if (next != gaps_.begin())
    if (const auto before = std::prev(next); before->first + before->second == run.begin) {
      whole = {before->first, before->second + run.count};
      gaps_.erase(before);
    }
  if (const auto behind = gaps_.find(run.end()); behind != gaps_.end()) {
    whole.count += behind->second;
    gaps_.erase(behind);
  }
  gaps_[whole.begin] = whole.count;
}

}  // namespace blockloom::dump
