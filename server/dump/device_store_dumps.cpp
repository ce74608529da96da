// What a device store holds: blocks, and the dumps and images that they make.
#include <algorithm>

#include <fmt/format.h>

#include "server/base/size_text.hpp"
#include "server/dump/device_store.hpp"

namespace blockloom::dump {
namespace {

constexpr std::size_t runs_max = 4096;  // of one thing

}  // namespace

// --- Blocks -----------------------------------------------------------------------------------

Result<std::vector<BlockRun>> DeviceStore::take_locked(Lock& lock, std::uint64_t count,
                                                       std::uint64_t after, std::uint64_t unit,
                                                       std::uint64_t keep) {
  // What was freed lately is free only after one generation more.
  for (int i = 0; i < 2 && free_.count() < count + keep; ++i) {
    if (freed_.empty() && resting_.empty()) break;
    if (auto done = commit_locked(lock); !done) return done.error();
  }
  if (free_.count() < count + keep)
    return Error{Errc::no_space, fmt::format("dump store '{}' is full: {} of {} are free", name(),
                                             size_text(free_.count() * store_block),
                                             size_text(blocks_ * store_block))};
  std::vector<BlockRun> runs;
  while (count > 0 && runs.size() < runs_max) {
    const BlockRun run = free_.take(count, after, unit);
    if (run.count == 0) break;
    count -= run.count;
    after = run.end();
    runs.push_back(run);
  }
  if (count == 0) return runs;
  for (const BlockRun& run : runs)
    free_.give(run);
  return Error{Errc::no_space,
               fmt::format("dump store '{}': what is free is in too many pieces", name())};
}

std::uint64_t DeviceStore::total_blocks() const {
  const Lock lock(mutex_);
  return open_ ? blocks_ - superblock_.data_begin() : 0;
}

std::uint64_t DeviceStore::free_blocks() const {
  const Lock lock(mutex_);
  return free_.count() + (bytes_in(freed_) + bytes_in(resting_)) / store_block;
}

// --- Dumps ------------------------------------------------------------------------------------

std::vector<DumpId> DeviceStore::list() const {
  const Lock lock(mutex_);
  std::vector<DumpId> ids;
  for (const auto& [id, dump] : catalogue_.dumps)
    ids.push_back(id);
  return ids;
}

std::optional<StoredDump> DeviceStore::find(const DumpId& id) const {
  const Lock lock(mutex_);
  const auto found = catalogue_.dumps.find(id);
  return found == catalogue_.dumps.end() ? std::nullopt : std::optional(found->second);
}

Result<StoredDump*> DeviceStore::dump_locked(const DumpId& id) {
  if (!lost_) return lost_.error();
  if (!open_) return Error{Errc::busy, fmt::format("dump store '{}' is not open", name())};
  const auto found = catalogue_.dumps.find(id);
  if (found == catalogue_.dumps.end())
    return Error{Errc::not_found, fmt::format("{}: there is no dump {}", name(), id.text())};
  return &found->second;
}

Result<void> DeviceStore::add(const DumpId& id) {
  const Lock lock(mutex_);
  if (!lost_) return lost_;
  if (!open_) return Error{Errc::busy, fmt::format("dump store '{}' is not open", name())};
  // Its record, which comes at once, commits it.
  if (catalogue_.dumps.try_emplace(id).second) return {};
  return Error{Errc::exists, fmt::format("{}: dump {} exists", name(), id.text())};
}

Result<void> DeviceStore::remove(const DumpId& id) {
  Lock lock(mutex_);
  auto dump = dump_locked(id);
  if (!dump) return dump.error();
  freed_.insert(freed_.end(), (*dump)->image.begin(), (*dump)->image.end());
  for (const auto& [file, stored] : (*dump)->files)
    freed_.insert(freed_.end(), stored.blocks.begin(), stored.blocks.end());
  catalogue_.dumps.erase(id);
  return commit_locked(lock);
}

Result<std::vector<BlockRun>> DeviceStore::grow_image(const DumpId& id, std::uint64_t end) {
  Lock lock(mutex_);
  auto dump = dump_locked(id);
  if (!dump) return dump.error();
  const std::uint64_t have = bytes_in((*dump)->image);
  if (end <= have) return (*dump)->image;
  const std::uint64_t total = blocks_ - superblock_.data_begin();
  const std::uint64_t need = round_up(end - have, store_block) / store_block;
  // Ahead of the writes, so that commits are rare: a 64th of the device, 1 to 64 MiB.
  const std::uint64_t ahead = std::clamp<std::uint64_t>(total / 64, 256, 16384);
  const std::uint64_t unit = DeviceIo::piece / store_block;
  const std::uint64_t after = (*dump)->image.empty() ? 0 : (*dump)->image.back().end();
  auto runs = take_locked(lock, std::max(need, ahead), after, unit, kept_blocks());
  if (!runs && runs.code() == Errc::no_space && need < ahead)
    runs = take_locked(lock, need, after, unit, kept_blocks());
  if (!runs) return runs.error();
  // Taking may have waited.
  dump = dump_locked(id);
  if (!dump || (*dump)->image.size() + runs->size() > runs_max) {
    for (const BlockRun& run : *runs)
      free_.give(run);
    if (!dump) return dump.error();
    return Error{Errc::no_space,
                 fmt::format("{}: dump {} is in too many pieces", name(), id.text())};
  }
  std::vector<BlockRun>& image = (*dump)->image;
  for (const BlockRun& run : *runs)
    if (!image.empty() && image.back().end() == run.begin)
      image.back().count += run.count;
    else
      image.push_back(run);
  std::vector<BlockRun> all = image;
  if (auto done = commit_locked(lock); !done) return done.error();
  return all;
}

std::uint64_t DeviceStore::kept_blocks() const noexcept {
  // For records and texts, so that a store full of images still says what they are.
  return std::min<std::uint64_t>((blocks_ - superblock_.data_begin()) / 32, 1024);
}

void DeviceStore::set_defined(const DumpId& id, std::uint64_t length) {
  const Lock lock(mutex_);
  const auto found = catalogue_.dumps.find(id);
  if (found != catalogue_.dumps.end())
    found->second.length = std::min(length, bytes_in(found->second.image));
}

Result<void> DeviceStore::finish_image(const DumpId& id, std::uint64_t length) {
  Lock lock(mutex_);
  auto dump = dump_locked(id);
  if (!dump) return dump.error();
  cut_locked(**dump, length);
  (*dump)->finished = true;
  return commit_locked(lock);
}

void DeviceStore::leave_image(const DumpId& id, std::uint64_t length) {
  const Lock lock(mutex_);
  if (auto dump = dump_locked(id); dump && !(*dump)->finished) cut_locked(**dump, length);
}

void DeviceStore::cut_locked(StoredDump& dump, std::uint64_t length) {
  std::vector<BlockRun> kept;
  std::uint64_t left = round_up(length, store_block) / store_block;
  for (const BlockRun& run : dump.image) {
    const std::uint64_t n = std::min(left, run.count);
    if (n > 0) kept.push_back({run.begin, n});
    if (n < run.count) freed_.push_back({run.begin + n, run.count - n});
    left -= n;
  }
  dump.image = std::move(kept);
  dump.length = std::min(length, bytes_in(dump.image));
}

Result<void> DeviceStore::name_image(const DumpId& id, std::string_view image) {
  Lock lock(mutex_);
  auto dump = dump_locked(id);
  if (!dump) return dump.error();
  (*dump)->image_name = image;
  return commit_locked(lock);
}

}  // namespace blockloom::dump
