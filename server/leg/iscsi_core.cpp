#include "server/leg/iscsi_core.hpp"

#include <algorithm>
#include <cassert>

#include <openssl/crypto.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include "server/leg/storage_name.hpp"

namespace blockloom {
namespace {

constexpr std::uint64_t most_bytes = 1 << 20;  // of one READ or WRITE
constexpr Duration first_pause = std::chrono::milliseconds(100);
constexpr Duration longest_pause = std::chrono::seconds(10);

}  // namespace

IscsiCore::IscsiCore(IscsiUri uri, std::string name, std::string initiator, disk::Traits traits,
                     bool read_only, Finish finish)
    : uri_(std::move(uri)),
      name_(std::move(name)),
      storage_(storage_name(name_)),
      initiator_(std::move(initiator)),
      isid_(stable_isid(uri_, initiator_)),
      size_(traits.blocks * traits.block_size / sector_size * sector_size),
      read_only_(read_only),
      finish_(finish),
      event_fd_(eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK)),
      disk_(std::move(traits)),
      commands_(uri_.queue_depth),
      backoff_(first_pause, longest_pause, now_ns()) {
  const std::uint64_t block = disk_.block_size;
  most_bytes_ = std::max(block, most_bytes / block * block);
  if (disk_.max_transfer > 0)
    most_bytes_ = std::min<std::uint64_t>(most_bytes_, disk_.max_transfer * block);
  // With its descriptors or its blocks zero a disk takes no UNMAP (SBC-3 6.6.4).
  if (disk_.max_unmap_ranges == 0 || disk_.max_unmap_blocks == 0) disk_.can_unmap = false;
  // WRITE SAME (10) reaches no further, and would unmap other blocks.
  if (disk_.blocks > std::uint64_t{1} << 32) disk_.can_unmap_same_10 = false;
  for (IscsiCommand& command : commands_) {
    command.next = free_;
    free_ = &command;
  }
  waiting_.reserve(commands_.size());
}

IscsiCore::~IscsiCore() {
  assert(active_.empty() && finished_.empty());
  if (event_fd_ >= 0) close(event_fd_);
  // Const for everybody else.
  for (const std::string* secret : {&uri_.password, &uri_.target_password})
    OPENSSL_cleanse(const_cast<char*>(secret->data()), secret->size());
}

Submit IscsiCore::submit(Io& io) noexcept {
  // The Io may end, and the leg's last owner let go of it, before this is through.
  const auto self = shared_from_this();
  if (read_only_ && io.modifies()) return io.finish_inline(Errc::read_only);
  const Lock lock(mutex_);
  if (stopping_) return io.finish_inline(Errc::shutdown);
  if (controlled_ && !open_) return io.finish_inline(Errc::io);
  if (const auto done = without_commands(io)) return io.finish_inline(*done);
  if (active_.size() >= max_requests) return io.finish_inline(Errc::limit);
  try {
    start_thread();
    add_request(io);
  } catch (const std::exception&) {  // of the standard library
    return io.finish_inline(Errc::no_memory);
  }
  pump();
  if (must_poke()) poke();
  return Submit::pending;
}

}  // namespace blockloom
