#pragma once

#include <condition_variable>
#include <cstdint>
#include <memory>
#include <mutex>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "server/dump/catalogue.hpp"
#include "server/dump/device_io.hpp"

namespace blockloom::dump {

/// The catalogue of a device that holds dumps, in memory and on it. Every change is made in memory
/// and then committed: a new generation of the whole catalogue goes into the slot of the one
/// before the last, so that a server that is killed at any write leaves the one or the other.
/// Changes that come together are committed together. Any thread.
///
/// What a change frees is given to others only when a later generation is durable too: even if the
/// newest generation were lost, all that the one before it knows is whole.
class DeviceStore {
 public:
  explicit DeviceStore(std::unique_ptr<DeviceIo> io);

  /// Reads the catalogue and takes the store over; a device of zeros becomes a store. Errc::busy:
  /// another server has it. Errc::corrupt: the device holds something else. After a failure it may
  /// be tried again. `as`: a test's.
  Result<void> open(std::optional<StoreOwner> as = {});
  /// Makes the device an empty store, whatever it holds. Errc::busy: it is open, here or elsewhere.
  Result<void> format(std::optional<StoreOwner> as = {});
  /// In good order: another server may have it at once.
  void close() noexcept;
  bool is_open() const;

  DeviceIo& io() noexcept { return *io_; }
  std::string name() const { return io_->name(); }

  std::vector<DumpId> list() const;
  std::optional<StoredDump> find(const DumpId& id) const;  ///< a copy
  std::uint64_t total_blocks() const;
  std::uint64_t free_blocks() const;  ///< what will be free soon among them

  Result<void> add(const DumpId& id);
  Result<void> remove(const DumpId& id);

  /// Room for an image up to `end`, and its runs then. Durable: what is written there is found.
  Result<std::vector<BlockRun>> grow_image(const DumpId& id, std::uint64_t end);
  /// So much of the image is defined: kept with the next commit.
  void set_defined(const DumpId& id, std::uint64_t length);
  Result<void> finish_image(const DumpId& id, std::uint64_t length);
  /// It is not over, and nothing comes for now: the room behind `length` goes. As set_defined().
  void leave_image(const DumpId& id, std::uint64_t length);
  Result<void> name_image(const DumpId& id, std::string_view name);

  /// A small file of a dump, or (with an empty id) the log of the host `file`.
  std::optional<StoredFile> find_file(const DumpId& id, std::string_view file) const;
  Result<void> put_file(const DumpId& id, std::string_view file, std::string_view bytes);
  Result<void> write_file(const DumpId& id, std::string_view file, std::uint64_t offset,
                          std::string_view bytes, bool keep_length);
  Result<std::string> read_file(const StoredFile& file, std::uint64_t offset, std::size_t most);
  Result<void> erase_file(const DumpId& id, std::string_view file);

 private:
  using Lock = std::unique_lock<std::mutex>;

  Result<bool> is_empty();
  Result<Superblock> read_superblock();
  Result<void> format_locked();
  Result<void> load_locked();
  Result<void> read_slots(Generation& newest, std::string& payload);
  Result<void> check_owner(const StoreOwner& owner) const;

  Result<StoredDump*> dump_locked(const DumpId& id);
  Result<void> writable_locked(const DumpId& id);
  StoredFile* file_locked(const DumpId& id, std::string_view file, bool make);
  Result<std::vector<BlockRun>> take_locked(Lock& lock, std::uint64_t count, std::uint64_t after,
                                            std::uint64_t unit, std::uint64_t keep);
  void give_back_locked(const std::vector<BlockRun>& runs);
  void cut_locked(StoredDump& dump, std::uint64_t length);
  std::uint64_t kept_blocks() const noexcept;
  Result<void> commit_locked(Lock& lock);
  Result<void> write_generation(std::uint64_t number, const std::string& payload, bool check);
  Result<void> make_room(const DumpId& id, std::string_view file, std::uint64_t end,
                         bool keep_length);
  Result<void> write_bytes(const std::vector<BlockRun>& blocks, std::uint64_t offset,
                           std::string_view bytes);

  const std::unique_ptr<DeviceIo> io_;

  mutable std::mutex mutex_;  // protects what follows
  std::condition_variable committed_;
  StoreOwner us_;
  bool open_ = false;
  Result<void> lost_;  // another server took the store: nothing is written any more
  Superblock superblock_;
  std::uint64_t blocks_ = 0;
  std::uint64_t generation_ = 0;
  Catalogue catalogue_;
  FreeBlocks free_;
  std::vector<BlockRun> freed_;    // by changes that are not durable yet
  std::vector<BlockRun> resting_;  // the generation before the newest may still know them
  std::uint64_t changes_ = 0, durable_ = 0, failed_ = 0;  // changes count up
  Result<void> failure_;                                  // of the commit of failed_
  bool doubtful_ = false;  // the last commit failed: the slot may still be written
  bool committing_ = false;
};

/// Which parts of a device the bytes [offset, offset + length) of something in these runs are:
/// calls piece(offset on the device, bytes before it, length). They lie inside.
template <class Piece>
void for_pieces(const std::vector<BlockRun>& runs, std::uint64_t offset, std::uint64_t length,
                Piece piece) {
  std::uint64_t begin = 0, done = 0;
  for (const BlockRun& run : runs) {
    const std::uint64_t size = run.count * store_block;
    if (offset + done < begin + size && done < length) {
      const std::uint64_t into = offset + done - begin;
      const std::uint64_t n = size - into < length - done ? size - into : length - done;
      piece(run.begin * store_block + into, done, n);
      done += n;
    }
    begin += size;
  }
}

/// Bytes of something of this length in these runs; short at its end.
Result<std::size_t> read_runs(DeviceIo& io, const std::vector<BlockRun>& runs, std::uint64_t length,
                              std::uint64_t offset, std::span<std::byte> into);

}  // namespace blockloom::dump
