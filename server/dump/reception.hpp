#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "proto/dump/range_set.hpp"
#include "server/base/error.hpp"
#include "server/dump/record.hpp"
#include "server/dump/store.hpp"
#include "server/dump/writer.hpp"

namespace blockloom::dump {

/// One dump while it comes in: its record, its targets, which bytes are here. Protocols tell it
/// what arrived; it knows none of them. One thread at a time; every call may wait for the disk.
class Reception {
 public:
  /// More places for every dump, beside the store's own: each call makes a target for one.
  using Copies = std::vector<std::function<std::unique_ptr<DumpTarget>(const DumpId&)>>;

  /// A new dump. `head` has what is known; its id gets the time.
  static Result<std::unique_ptr<Reception>> begin(Store& store, Record head,
                                                  const Copies& copies = {});
  /// Goes on with one that a restart interrupted; `here`: the bytes that are known to be here.
  static Result<std::unique_ptr<Reception>> resume(Store& store, Record record,
                                                   const RangeSet& here);

  /// Writes; later ones win where they overlap. Errc::no_space, with nothing written, if a quota
  /// or the store is full. Writes beyond what is plausible (a hole of over `gap_max`) are
  /// Errc::out_of_range.
  Result<void> write(std::span<const DumpWrite> writes);
  /// These bytes are zeros: a hole in the image.
  Result<void> zeros(std::uint64_t begin, std::uint64_t end);
  Result<void> sync();
  Result<std::size_t> read(std::uint64_t offset, std::span<std::byte> into);

  /// The sender's kernel log: stored at once, and searched for the panic.
  Result<void> put_dmesg(std::string_view text);
  /// Any other small file beside the image.
  Result<void> put_file(std::string_view name, std::string_view bytes);

  /// The record, for the protocol to fill in; save() or end() bring it to the disk.
  Record& record() noexcept { return record_; }
  Result<void> save();
  const RangeSet& here() const noexcept { return here_; }
  Store& store() noexcept { return store_; }

  /// It is over. `length`: of the image, to which it is cut; then the record is durable. After an
  /// error the record still says the state, as far as the disk lets it.
  Result<void> end(State state, Reason reason, std::string detail, std::uint64_t length);

  static constexpr std::uint64_t gap_max = std::uint64_t{4} << 30;

 private:
  Reception(Store& store, Record record) : store_(store), record_(std::move(record)) {}
  Result<void> open(bool resume, const Copies& copies);
  Result<void> write_run(std::span<const DumpWrite> run);

  Store& store_;
  Record record_;
  DumpWriter writer_;
  RangeSet here_;
  std::uint64_t image_end_ = 0;
};

}  // namespace blockloom::dump
