#include "server/dump/device_store.hpp"

#include <algorithm>
#include <cstring>
#include <utility>

#include <fmt/format.h>
#include <openssl/rand.h>
#include <unistd.h>

#include "proto/dump/crc32c.hpp"
#include "server/base/log.hpp"
#include "server/base/size_text.hpp"
#include "server/dump/inspect.hpp"
#include "server/dump/this_process.hpp"

namespace blockloom::dump {
namespace {

/// What a store looks at before it takes a device for an empty one.
constexpr std::uint64_t looked_at_head = 1 << 20, looked_at_tail = 128 << 10;

StoreUuid random_uuid() {
  StoreUuid uuid{};
  RAND_bytes(reinterpret_cast<unsigned char*>(uuid.data()), static_cast<int>(uuid.size()));
  return uuid;
}

StoreOwner this_server() {
  StoreOwner owner;
  owner.server = random_uuid();
  owner.boot = boot_number();
  owner.pid = static_cast<std::uint32_t>(::getpid());
  owner.since = process_start(owner.pid);
  owner.in_use = true;
  return owner;
}

std::string padded(std::string bytes) {
  bytes.resize(round_up(bytes.size(), store_block));
  return bytes;
}

}  // namespace

DeviceStore::DeviceStore(std::unique_ptr<DeviceIo> io) : io_(std::move(io)) {}

// --- Opening ----------------------------------------------------------------------------------

Result<Superblock> DeviceStore::read_superblock() {
  std::vector<std::byte> both(2 * store_block);
  if (auto got = io_->read(0, both); !got) return got.error();
  auto first = parse_superblock(ByteView(both).first(store_block), blocks_);
  if (first || first.code() != Errc::corrupt) return first;
  auto second = parse_superblock(ByteView(both).subspan(store_block), blocks_);
  return second ? second : first;
}

Result<bool> DeviceStore::is_empty() {
  std::vector<std::byte> bytes(looked_at_head);
  const std::uint64_t size = blocks_ * store_block;
  const std::uint64_t tail = std::min(looked_at_tail, size);
  if (auto got = io_->read(0, std::span(bytes).first(std::min<std::uint64_t>(bytes.size(), size)));
      !got)
    return got.error();
  if (!all_zero(bytes)) return false;
  if (auto got = io_->read(size - tail, std::span(bytes).first(tail)); !got) return got.error();
  return all_zero(ByteView(bytes).first(tail));
}

Result<void> DeviceStore::check_owner(const StoreOwner& owner) const {
  if (!owner.in_use || owner.boot != us_.boot || owner.server == us_.server) return {};
  const std::uint64_t since = process_start(owner.pid);
  if (since == 0 || since != owner.since) return {};
  return Error{Errc::busy,
               fmt::format("dump store '{}' is in use by another server, process {}: give each "
                           "server a device of its own",
                           name(), owner.pid)};
}

Result<void> DeviceStore::open(std::optional<StoreOwner> as) {
  Lock lock(mutex_);
  if (open_) return {};
  if (auto started = io_->start(); !started) return started;
  if (as || us_.pid == 0) us_ = as ? *as : this_server();
  blocks_ = io_->size() / store_block;
  if (blocks_ < store_blocks_min)
    return Error{Errc::invalid, fmt::format("dump store '{}' has {}: expected a device of at least "
                                            "{}",
                                            name(), size_text(io_->size()),
                                            size_text(store_blocks_min * store_block))};
  auto superblock = read_superblock();
  if (!superblock && superblock.code() == Errc::corrupt) {
    auto empty = is_empty();
    if (!empty) return empty.error();
    if (!*empty)
      return Error{Errc::corrupt,
                   fmt::format("dump store '{}': the device holds something else: empty it, or "
                               "make it a store with 'blockloom dump format', which destroys what "
                               "is there",
                               name())};
    if (auto made = format_locked(); !made) return made;
    superblock = read_superblock();
  }
  if (!superblock)
    return Error{superblock.code(),
                 fmt::format("dump store '{}': {}", name(), superblock.error().message)};
  superblock_ = *superblock;
  if (auto loaded = load_locked(); !loaded) return loaded;
  open_ = true;
  // From here on another server that has it finds out at its next commit.
  if (auto taken = commit_locked(lock); !taken) {
    open_ = false;
    return taken;
  }
  return {};
}

Result<void> DeviceStore::format(std::optional<StoreOwner> as) {
  const Lock lock(mutex_);
  if (open_)
    return Error{Errc::busy, fmt::format("dump store '{}' is open: it holds dumps", name())};
  if (auto started = io_->start(); !started) return started;
  if (as || us_.pid == 0) us_ = as ? *as : this_server();
  blocks_ = io_->size() / store_block;
  if (blocks_ < store_blocks_min)
    return Error{Errc::invalid,
                 fmt::format("'{}' has {}: expected at least {}", name(), size_text(io_->size()),
                             size_text(store_blocks_min * store_block))};
  if (auto old = read_superblock()) {
    superblock_ = *old;
    Generation newest;
    std::string payload;
    if (read_slots(newest, payload))
      if (auto free = check_owner(newest.owner); !free) return free;
  }
  return format_locked();
}

/// The superblock comes last: without it there is no store.
Result<void> DeviceStore::format_locked() {
  Superblock fresh;
  fresh.uuid = random_uuid();
  fresh.slot_blocks = slot_blocks_for(blocks_);
  if (auto done = io_->zero(0, fresh.data_begin() * store_block); !done) return done;
  if (auto done = io_->flush(); !done) return done;
  superblock_ = fresh;
  // It is nobody's until it is opened.
  us_.in_use = false;
  auto written = write_generation(1, catalogue_text({}), false);
  us_.in_use = true;
  if (!written) return written;
  const std::string block = superblock_text(fresh);
  if (auto done = io_->write(0, as_bytes(block + block)); !done) return done;
  if (auto done = io_->flush(); !done) return done;
  log_info(fmt::format("dump store '{}': a new one, {}", name(), size_text(io_->size())));
  return {};
}

Result<void> DeviceStore::read_slots(Generation& newest, std::string& payload) {
  newest.number = 0;
  unsigned broken = 0;
  for (std::uint64_t slot = 0; slot < 2; ++slot) {
    const std::uint64_t at = superblock_.slot(slot) * store_block;
    std::vector<std::byte> block(store_block);
    if (auto got = io_->read(at, block); !got) return got.error();
    auto found = parse_generation(block, superblock_);
    if (!found || found->number % 2 != slot) {
      broken += all_zero(block) ? 0 : 1;
      continue;
    }
    std::string bytes(round_up(found->length, store_block), '\0');
    if (auto got = io_->read(at + store_block, std::as_writable_bytes(std::span(bytes))); !got)
      return got.error();
    bytes.resize(found->length);
    if (crc32c(0, bytes.data(), bytes.size()) != found->crc) {
      ++broken;
      continue;
    }
    if (found->number > newest.number) {
      newest = *found;
      payload = std::move(bytes);
    }
  }
  if (newest.number == 0)
    return Error{
        Errc::corrupt,
        fmt::format("dump store '{}': both generations of its catalogue are broken", name())};
  if (broken > 0)
    log_warning(
        fmt::format("dump store '{}': a generation of its catalogue was not written to "
                    "its end: generation {} counts",
                    name(), newest.number));
  return {};
}

Result<void> DeviceStore::load_locked() {
  Generation newest;
  std::string payload;
  if (auto read = read_slots(newest, payload); !read) return read;
  if (auto owner = check_owner(newest.owner); !owner) return owner;
  auto parsed = parse_catalogue(as_bytes(payload), superblock_.data_begin(), blocks_);
  if (!parsed)
    return Error{parsed.code(), fmt::format("dump store '{}': {}", name(), parsed.error().message)};
  catalogue_ = std::move(*parsed);
  generation_ = newest.number;
  free_ = FreeBlocks(superblock_.data_begin(), blocks_);
  freed_.clear();
  resting_.clear();
  const auto taken = [this](const std::vector<BlockRun>& runs) {
    for (const BlockRun& run : runs)
      free_.take_exactly(run);
  };
  for (const auto& [id, dump] : catalogue_.dumps) {
    taken(dump.image);
    for (const auto& [file, stored] : dump.files)
      taken(stored.blocks);
  }
  for (const auto& [host, log] : catalogue_.logs)
    taken(log.blocks);
  return {};
}

void DeviceStore::close() noexcept {
  Lock lock(mutex_);
  if (!open_) return;
  committed_.wait(lock, [this] { return !committing_; });
  us_.in_use = false;
  if (auto done = commit_locked(lock); !done) log_warning(done.error().message);
  open_ = false;
}

bool DeviceStore::is_open() const {
  const Lock lock(mutex_);
  return open_;
}

// --- Committing -------------------------------------------------------------------------------

Result<void> DeviceStore::write_generation(std::uint64_t number, const std::string& payload,
                                           bool check) {
  const std::uint64_t at = superblock_.slot(number) * store_block;
  if (check) {
    std::vector<std::byte> block(store_block);
    if (auto got = io_->read(at, block); !got) return got.error();
    auto there = parse_generation(block, superblock_);
    if (there && there->number >= number && there->owner.server != us_.server)
      return Error{Errc::busy, fmt::format("dump store '{}' was taken over by another server: "
                                           "nothing more is written to it",
                                           name())};
  }
  Generation generation;
  generation.number = number;
  generation.length = payload.size();
  generation.crc = crc32c(0, payload.data(), payload.size());
  generation.owner = us_;
  const std::string bytes = padded(generation_text(generation, superblock_.uuid) + payload);
  if (auto done = io_->write(at, as_bytes(bytes)); !done) return done;
  return io_->flush();
}

Result<void> DeviceStore::commit_locked(Lock& lock) {
  const std::uint64_t wanted = ++changes_;
  while (durable_ < wanted) {
    if (!lost_) return lost_;
    if (failed_ >= wanted) return failure_;
    if (committing_) {
      committed_.wait(lock);
      continue;
    }
    committing_ = true;
    const std::uint64_t now = changes_, number = generation_ + 1;
    const std::string payload = catalogue_text(catalogue_);
    std::vector<BlockRun> freed = std::exchange(freed_, {});
    const bool full = payload.size() > (superblock_.slot_blocks - 1) * store_block;
    // A late write of an earlier try could still land in the slot.
    const bool in_doubt = doubtful_ && io_->late();
    lock.unlock();
    Result<void> done;
    if (full)
      done = Error{Errc::no_space, fmt::format("dump store '{}': its catalogue is full: remove "
                                               "dumps",
                                               name())};
    else if (in_doubt)
      done = Error{Errc::timed_out, fmt::format("dump store '{}': the device still has late "
                                                "writes",
                                                name())};
    else
      done = write_generation(number, payload, true);
    lock.lock();
    committing_ = false;
    if (done) {
      generation_ = number;
      durable_ = now;
      doubtful_ = false;
      // A late write may still land in what was freed.
      if (!io_->late())
        for (const BlockRun& run : std::exchange(resting_, {}))
          free_.give(run);
      resting_.insert(resting_.end(), freed.begin(), freed.end());
    } else {
      freed_.insert(freed_.end(), freed.begin(), freed.end());
      doubtful_ = true;
      failed_ = now;
      failure_ = done;
      if (done.code() == Errc::busy) lost_ = done;
    }
    committed_.notify_all();
  }
  return {};
}

}  // namespace blockloom::dump
