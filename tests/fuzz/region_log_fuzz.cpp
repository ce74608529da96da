#include <cstddef>
#include <cstdint>
#include <cstring>
#include <vector>

#include "server/target/mirror/region_log.hpp"
#include "tests/fuzz/demand.hpp"

// The mirror's record as hostile bytes. A checksum keeps a fuzzer out, so its input is a recipe:
// a log of some regions, commits of marks, and then damage to the medium. Loaded, it is refused,
// or every mark is one that was once handed to a commit; and it can be written and read again.
namespace {

using namespace blockloom;
using namespace blockloom::mirror;

class Medium : public LogSource {
 public:
  explicit Medium(std::size_t size) : bytes(size) {}
  Result<void> read(std::uint64_t offset, std::span<std::byte> out) override {
    if (offset > bytes.size() || out.size() > bytes.size() - offset)
      return Error{Errc::io, "past the end"};
    std::memcpy(out.data(), bytes.data() + offset, out.size());
    return {};
  }
  std::vector<std::byte> bytes;
};

class Recipe {
 public:
  Recipe(const std::uint8_t* data, std::size_t size) : data_(data), size_(size) {}
  bool more() const { return at_ < size_; }
  std::uint8_t next() { return more() ? data_[at_++] : std::uint8_t{0}; }
  std::size_t number() { return next() | static_cast<std::size_t>(next()) << 8; }

 private:
  const std::uint8_t* data_;
  std::size_t size_;
  std::size_t at_ = 0;
};

void commit(RegionLog& log, Medium& medium, std::size_t torn_after) {
  if (!log.pending()) return;
  log.begin_commit();
  std::vector<LogWrite> batch;
  std::size_t written = 0;
  while (log.next_batch(batch)) {
    for (const LogWrite& w : batch) {
      if (written++ >= torn_after) continue;
      std::memcpy(medium.bytes.data() + w.offset, w.bytes.data(), w.bytes.size());
    }
  }
  log.end_commit(written <= torn_after);
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  Recipe recipe(data, size);
  LogIdentity identity;
  const std::size_t regions = 1 + recipe.number() % 4000;
  identity.region_size = 4096;
  identity.size = regions * identity.region_size;
  identity.mirror = {7};
  const unsigned legs = 1 + recipe.next() % max_legs;
  for (unsigned i = 0; i < legs; ++i)
    identity.roles[i] = Role::member;
  Medium medium(RegionLog::bytes_needed(regions));
  RegionLog log = RegionLog::create(identity, (recipe.next() & 1) != 0).value();
  commit(log, medium, ~std::size_t{0});
  std::vector<bool> ever_dirty(regions);
  while (recipe.more()) {
    const std::uint8_t what = recipe.next();
    const std::size_t where = recipe.number();
    switch (what % 6) {
      case 0:
        log.set_dirty(where % regions, (what & 64) != 0);
        if ((what & 64) != 0) ever_dirty[where % regions] = true;
        break;
      case 1:
        log.set_stale(where % regions, leg_bit(what / 6 % legs), (what & 64) != 0);
        break;
      case 2:
        commit(log, medium, (what & 64) != 0 ? where % 9 : ~std::size_t{0});
        break;
      case 3: {
        const std::size_t at = (where * 16 + what / 6) % medium.bytes.size();
        medium.bytes[at] ^= static_cast<std::byte>(1U << (where % 8));
        break;
      }
      case 4: {
        const std::size_t at = where * 512 % medium.bytes.size();
        std::memset(medium.bytes.data() + at, what,
                    std::min<std::size_t>(512, medium.bytes.size() - at));
        break;
      }
      default:
        log.set_epoch(where);
        break;
    }
  }
  Result<RegionLog> read = RegionLog::load(medium, identity);
  if (!read) {
    demand(!read.error().message.empty());
    return 0;
  }
  std::uint64_t dirty = 0;
  for (std::uint64_t r = 0; r < regions; ++r) {
    demand(!read->dirty(r) || ever_dirty[r]);
    dirty += read->dirty(r) ? 1 : 0;
  }
  demand(dirty == read->dirty_count());
  read->rewrite();
  Medium copy(medium.bytes.size());
  commit(*read, copy, ~std::size_t{0});
  Result<RegionLog> again = RegionLog::load(copy, identity);
  demand(static_cast<bool>(again));
  for (std::uint64_t r = 0; r < regions; ++r)
    demand(again->dirty(r) == read->dirty(r) && again->stale(r) == read->stale(r));
  // The input itself as the medium: noise is refused.
  Medium noise(medium.bytes.size());
  std::memcpy(noise.bytes.data(), data, std::min(size, noise.bytes.size()));
  demand(!RegionLog::load(noise, identity));
  return 0;
}
