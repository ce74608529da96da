#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "server/base/error.hpp"
#include "server/dump/target.hpp"

namespace blockloom::dump {

/// The name of a dump: HOST/TIME, both safe as names of files. TIME is UTC, "20261121T172031Z",
/// with ".2" and so on for more in one second.
struct DumpId {
  std::string host, time;
  std::string text() const { return host + "/" + time; }
  auto operator<=>(const DumpId&) const = default;
};
/// "HOST/TIME"; refuses what could not be one.
Result<DumpId> parse_dump_id(std::string_view text);
/// A sender's name as a part of an id: letters, digits, '.', '-', '_', at most 64, no dot first.
std::string safe_host(std::string_view name);

struct Space {
  std::uint64_t total = 0, free = 0;
};

/// How a finished dump's bytes are reached as a leg: runs of (path or URI, offset, length).
struct DumpRun {
  std::string uri;
  std::uint64_t offset = 0, length = 0;
};

/// A finished image, to look into. Any one thread at a time.
class ImageReader {
 public:
  virtual ~ImageReader() = default;
  /// Short only at the end.
  virtual Result<std::size_t> read(std::uint64_t offset, std::span<std::byte> into) = 0;
};

/// What a store keeps its dumps in. Beside its image a dump has small files by fixed names (its
/// record, texts, key, journal). Any thread; the calls for one dump come one at a time.
class BackEnd {
 public:
  virtual ~BackEnd() = default;

  virtual std::string name() const = 0;

  /// Not open yet: open() is called after the process has forked, and again while it fails. Only
  /// then come all others.
  virtual bool opens_late() const noexcept { return false; }
  virtual Result<void> open() { return {}; }
  /// Makes an empty store, whatever is there. While it is not open.
  virtual Result<void> format() {
    return Error{Errc::not_supported, name() + ": a folder needs no format"};
  }
  /// In good order, when nothing more is written.
  virtual void close() noexcept {}

  virtual Result<std::vector<DumpId>> list() = 0;

  /// A place for a new dump. Errc::exists if there is one of that name.
  virtual Result<void> create(const DumpId& id) = 0;
  virtual Result<void> remove(const DumpId& id) = 0;

  /// The image of a dump, to write it (`resume`: what is there stays) or, after finish, to read.
  virtual std::unique_ptr<DumpTarget> image(const DumpId& id, bool resume) = 0;
  /// Gives a finished image its name ("vmcore.zst"), where images have names.
  virtual Result<void> name_image(const DumpId& id, std::string_view name) = 0;
  virtual Result<std::unique_ptr<ImageReader>> open_image(const DumpId& id,
                                                          std::string_view image_name) = 0;
  virtual Result<std::vector<DumpRun>> runs(const DumpId& id, std::string_view image_name,
                                            std::uint64_t length) = 0;

  /// Replaces a small file, all or nothing, durable.
  virtual Result<void> put(const DumpId& id, std::string_view file, std::string_view bytes) = 0;
  /// Writes into a small file at an offset, not durable before sync_file().
  virtual Result<void> write(const DumpId& id, std::string_view file, std::uint64_t offset,
                             std::string_view bytes) = 0;
  virtual Result<void> sync_file(const DumpId& id, std::string_view file) = 0;
  /// At most `most` bytes from its start; nothing if there is no such file.
  virtual Result<std::optional<std::string>> get(const DumpId& id, std::string_view file,
                                                 std::size_t most) = 0;
  virtual Result<void> erase(const DumpId& id, std::string_view file) = 0;

  /// Adds to the log of a host, beside its dumps; bounded: an old half goes when it has grown.
  virtual Result<void> append_log(std::string_view host, std::string_view text) = 0;

  virtual Result<Space> space() = 0;
  /// A little space is kept aside, so that a full store can still write records. Gives it up.
  virtual void free_reserve() noexcept = 0;
  virtual void keep_reserve() noexcept = 0;
};

/// A folder: HOST/TIME/ for each dump, mode 0700, files 0600. Locks it: Errc::busy if another
/// server has it.
Result<std::unique_ptr<BackEnd>> open_folder(const std::string& path);

}  // namespace blockloom::dump
