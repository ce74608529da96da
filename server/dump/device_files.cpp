// The small files of a device's dumps, and the logs of hosts.
#include <algorithm>
#include <cstring>
#include <utility>

#include <fmt/format.h>

#include "server/dump/device_store.hpp"

namespace blockloom::dump {
namespace {

constexpr std::size_t inside_max = 16384;         // bytes; more has blocks of its own
constexpr std::uint64_t growth = 64 << 10;        // bytes
constexpr std::uint64_t file_max = 128ULL << 20;  // bytes

}  // namespace

StoredFile* DeviceStore::file_locked(const DumpId& id, std::string_view file, bool make) {
  std::map<std::string, StoredFile, std::less<>>* files = &catalogue_.logs;
  if (!id.host.empty()) {
    const auto dump = catalogue_.dumps.find(id);
    if (dump == catalogue_.dumps.end()) return nullptr;
    files = &dump->second.files;
  }
  const auto found = files->find(file);
  if (found != files->end()) return &found->second;
  return make ? &(*files)[std::string(file)] : nullptr;
}

Result<void> DeviceStore::writable_locked(const DumpId& id) {
  if (!id.host.empty()) {
    auto dump = dump_locked(id);
    return dump ? Result<void>() : dump.error();
  }
  if (!lost_) return lost_;
  if (!open_) return Error{Errc::busy, fmt::format("dump store '{}' is not open", name())};
  return {};
}

std::optional<StoredFile> DeviceStore::find_file(const DumpId& id, std::string_view file) const {
  const Lock lock(mutex_);
  const StoredFile* found = const_cast<DeviceStore*>(this)->file_locked(id, file, false);
  return found != nullptr ? std::optional(*found) : std::nullopt;
}

Result<void> DeviceStore::put_file(const DumpId& id, std::string_view file,
                                   std::string_view bytes) {
  StoredFile fresh;
  fresh.length = bytes.size();
  Lock lock(mutex_);
  if (auto may = writable_locked(id); !may) return may;
  if (bytes.size() <= inside_max) {
    fresh.bytes = bytes;
  } else {
    auto runs = take_locked(lock, round_up(bytes.size(), store_block) / store_block, 0, 1, 0);
    if (!runs) return runs.error();
    fresh.blocks = std::move(*runs);
    lock.unlock();
    // Durable before a generation knows of it.
    auto done = write_bytes(fresh.blocks, 0, bytes);
    if (done) done = io_->flush();
    lock.lock();
    if (!done || !writable_locked(id)) {
      give_back_locked(fresh.blocks);
      return done ? writable_locked(id) : done;
    }
  }
  StoredFile* there = file_locked(id, file, true);
  freed_.insert(freed_.end(), there->blocks.begin(), there->blocks.end());
  *there = std::move(fresh);
  return commit_locked(lock);
}

/// What was taken and not used. A write that is late may still land in it.
void DeviceStore::give_back_locked(const std::vector<BlockRun>& runs) {
  if (io_->late())
    freed_.insert(freed_.end(), runs.begin(), runs.end());
  else
    for (const BlockRun& run : runs)
      free_.give(run);
}

/// Blocks for a file that is written in place: of zeros, so that its end is known.
Result<void> DeviceStore::make_room(const DumpId& id, std::string_view file, std::uint64_t end,
                                    bool keep_length) {
  Lock lock(mutex_);
  if (auto may = writable_locked(id); !may) return may;
  if (end > file_max)
    return Error{Errc::limit,
                 fmt::format("{}: {} {}: more than {} bytes", name(), id.text(), file, file_max)};
  StoredFile* there = file_locked(id, file, true);
  const std::uint64_t have = bytes_in(there->blocks);
  if (end <= have) return {};
  const std::uint64_t size = round_up(std::max(end, 2 * have), growth);
  auto runs = take_locked(lock, (size - have) / store_block, 0, 1, 0);
  if (!runs) return runs.error();
  there = file_locked(id, file, true);
  const std::string inside = there == nullptr ? std::string() : there->bytes;
  lock.unlock();
  Result<void> done;
  for (const BlockRun& run : *runs)
    if (done) done = io_->zero(run.begin * store_block, run.count * store_block);
  if (done && !inside.empty()) done = write_bytes(*runs, 0, inside);
  if (done) done = io_->flush();
  lock.lock();
  there = file_locked(id, file, true);
  if (!done || there == nullptr) {
    give_back_locked(*runs);
    if (!done) return done;
    return Error{Errc::removed, fmt::format("dump {} was removed", id.text())};
  }
  there->blocks.insert(there->blocks.end(), runs->begin(), runs->end());
  there->bytes.clear();
  if (!keep_length) there->length = bytes_in(there->blocks);
  return commit_locked(lock);
}

Result<void> DeviceStore::write_file(const DumpId& id, std::string_view file, std::uint64_t offset,
                                     std::string_view bytes, bool keep_length) {
  if (auto room = make_room(id, file, offset + bytes.size(), keep_length); !room) return room;
  const auto there = find_file(id, file);
  if (!there) return Error{Errc::removed, fmt::format("dump {} was removed", id.text())};
  if (auto done = write_bytes(there->blocks, offset, bytes); !done) return done;
  if (!keep_length) return {};
  Lock lock(mutex_);
  if (StoredFile* now = file_locked(id, file, false))
    now->length = std::max(now->length, offset + bytes.size());
  return commit_locked(lock);
}

/// Whole blocks go to the device: what stands beside the bytes is read first.
Result<void> DeviceStore::write_bytes(const std::vector<BlockRun>& blocks, std::uint64_t offset,
                                      std::string_view bytes) {
  const std::uint64_t begin = round_down(offset, store_block);
  const std::uint64_t end = round_up(offset + bytes.size(), store_block);
  std::vector<std::byte> whole(end - begin);
  Result<void> done;
  const auto fetch = [&](std::uint64_t at) {
    for_pieces(blocks, at, store_block, [&](std::uint64_t where, std::uint64_t, std::uint64_t n) {
      if (done) done = io_->read(where, std::span(whole).subspan(at - begin, n));
    });
  };
  if (offset != begin) fetch(begin);
  if (offset + bytes.size() != end && (offset == begin || end - begin > store_block))
    fetch(end - store_block);
  if (!done) return done;
  std::memcpy(whole.data() + (offset - begin), bytes.data(), bytes.size());
  for_pieces(blocks, begin, whole.size(),
             [&](std::uint64_t where, std::uint64_t before, std::uint64_t n) {
               if (done) done = io_->write(where, ByteView(whole).subspan(before, n));
             });
  return done;
}

Result<std::string> DeviceStore::read_file(const StoredFile& file, std::uint64_t offset,
                                           std::size_t most) {
  if (offset >= file.length) return std::string();
  const std::size_t size = std::min<std::uint64_t>(most, file.length - offset);
  if (file.blocks.empty()) return file.bytes.substr(offset, size);
  const std::uint64_t begin = round_down(offset, store_block);
  std::string bytes(round_up(offset + size, store_block) - begin, '\0');
  Result<void> done;
  for_pieces(file.blocks, begin, bytes.size(),
             [&](std::uint64_t where, std::uint64_t before, std::uint64_t n) {
               if (done)
                 done =
                     io_->read(where, std::as_writable_bytes(std::span(bytes).subspan(before, n)));
             });
  if (!done) return done.error();
  return bytes.substr(offset - begin, size);
}

Result<void> DeviceStore::erase_file(const DumpId& id, std::string_view file) {
  Lock lock(mutex_);
  auto dump = dump_locked(id);
  if (!dump) return dump.error();
  const auto found = (*dump)->files.find(file);
  if (found == (*dump)->files.end()) return {};
  freed_.insert(freed_.end(), found->second.blocks.begin(), found->second.blocks.end());
  (*dump)->files.erase(found);
  return commit_locked(lock);
}

Result<std::size_t> read_runs(DeviceIo& io, const std::vector<BlockRun>& runs, std::uint64_t length,
                              std::uint64_t offset, std::span<std::byte> into) {
  if (offset >= length) return std::size_t{0};
  const std::size_t size = std::min<std::uint64_t>(into.size(), length - offset);
  Result<void> done;
  // Whole sectors into the caller's memory, the ends by way of a block.
  for_pieces(runs, offset, size, [&](std::uint64_t where, std::uint64_t before, std::uint64_t n) {
    while (done && n > 0) {
      const std::uint64_t within = where % store_block;
      std::uint64_t part = std::min(n, store_block - within);
      if (within == 0 && n >= store_block) {
        part = round_down(n, store_block);
        done = io.read(where, into.subspan(before, part));
      } else {
        std::byte block[store_block];
        done = io.read(where - within, block);
        std::memcpy(into.data() + before, block + within, part);
      }
      where += part;
      before += part;
      n -= part;
    }
  });
  if (!done) return done.error();
  return size;
}

}  // namespace blockloom::dump
