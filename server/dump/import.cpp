#include "server/dump/import.hpp"

#include <algorithm>
#include <condition_variable>
#include <mutex>
#include <vector>

#include <fmt/format.h>

#include "proto/dump/flattened.hpp"
#include "proto/dump/sha256.hpp"
#include "proto/dump/vmcore.hpp"
#include "server/base/log.hpp"
#include "server/dump/inspect.hpp"
#include "server/dump/kdump_extent.hpp"
#include "server/dump/reception.hpp"

namespace blockloom::dump {
namespace {

constexpr std::size_t import_step = 1 << 20;
constexpr std::size_t known_by = 64 << 10;  // bytes at the start that tell two dumps apart
/// Far over what a device that is suspended lets a request wait.
constexpr Duration read_patience = std::chrono::seconds(120);

class DeviceReader final : public ImageReader {
 public:
  explicit DeviceReader(DeviceHandle device) : device_(std::move(device)) {}

  Result<std::size_t> read(std::uint64_t offset, std::span<std::byte> into) override {
    const std::uint64_t size = device_->size().value;
    if (offset >= size) return std::size_t{0};
    const std::size_t wanted = std::min<std::uint64_t>(into.size(), size - offset);
    for (std::size_t done = 0; done < wanted;) {
      const std::uint64_t at = round_down(offset + done, sector_size);
      const std::size_t skip = offset + done - at;
      const std::size_t n = std::min(wanted - done, import_step - skip);
      auto bytes = read_sectors(at, round_up(skip + n, sector_size));
      if (!bytes) return bytes.error();
      std::copy_n(bytes->begin() + static_cast<std::ptrdiff_t>(skip), n,
                  into.begin() + static_cast<std::ptrdiff_t>(done));
      done += n;
    }
    return wanted;
  }

 private:
  /// Lives on when a read is late for good.
  struct Read {
    Request request;
    std::vector<std::byte> bytes;
    std::mutex mutex;
    std::condition_variable changed;
    enum { out, again, over } state = out;
    std::shared_ptr<Read> hold;

    void tell(decltype(state) what) {
      const std::shared_ptr<Read> us = hold;
      const std::lock_guard lock(mutex);
      state = what;
      hold.reset();
      changed.notify_one();
    }
  };

  Result<std::vector<std::byte>> read_sectors(std::uint64_t offset, std::size_t size) {
    auto read = std::make_shared<Read>();
    read->bytes.resize(size);
    Request& request = read->request;
    request.op = Op::read;
    request.offset = Bytes(offset);
    request.length = Bytes(size);
    request.data = read->bytes.data();
    request.owner = read.get();
    request.complete = [](Request& r) noexcept { static_cast<Read*>(r.owner)->tell(Read::over); };
    request.retry = [](Request& r) noexcept { static_cast<Read*>(r.owner)->tell(Read::again); };
    const TimePoint deadline = Clock::now() + read_patience;
    for (;;) {
      read->state = Read::out;
      read->hold = read;
      if (device_->submit(request) == Submit::done) {
        read->hold.reset();
        break;
      }
      std::unique_lock lock(read->mutex);
      if (!read->changed.wait_until(lock, deadline, [&] { return read->state != Read::out; }))
        return Error{Errc::timed_out, fmt::format("device '{}': a read at {} has no answer",
                                                  device_->name(), offset)};
      if (read->state == Read::over) break;
    }
    if (request.status != Errc::ok)
      return Error{request.status, fmt::format("device '{}': read at {}: {}", device_->name(),
                                               offset, to_string(request.status))};
    return std::move(read->bytes);
  }

  const DeviceHandle device_;
};

class Import {
 public:
  Import(Store& store, ImageReader& source, std::uint64_t size, const ImportOptions& options)
      : store_(store), source_(source), size_(size), options_(options) {}

  Result<Record> run() {
    if (auto found = look(); !found) return found.error();
    Record head;
    head.protocol = "import";
    head.address = "dev:" + options_.device;
    head.hostname = options_.host.empty() ? hostname_ : options_.host;
    head.id.host = safe_host(head.hostname);
    head.kind = std::string(to_string(kind_));
    head.session = session_;
    auto begun = Reception::begin(store_, std::move(head));
    if (!begun) return begun.error();
    reception_ = std::move(*begun);
    if (options_.began) options_.began(reception_->record());
    const Result<void> copied = kind_ == ImageKind::flattened ? rearrange() : copy();
    return end(copied);
  }

 private:
  Error refused(Errc code, std::string_view what) const {
    return {code, fmt::format("device '{}': {}", options_.device, what)};
  }

  /// What is there, and where it ends; nothing is written yet.
  Result<void> look() {
    head_.resize(std::min<std::uint64_t>(kdump_header_bytes, size_));
    auto got = source_.read(0, head_);
    if (!got) return got.error();
    head_.resize(*got);
    kind_ = sniff_image(head_);
    hostname_ = options_.device;
    switch (kind_) {
      case ImageKind::flattened:
        look_into_flattened();
        break;
      case ImageKind::kdump: {
        auto end = kdump_end(source_, size_, options_.stop);
        if (!end) return refused(end.code(), end.error().message);
        end_ = *end;
        take_hostname(head_);
        break;
      }
      case ImageKind::elf: {
        ElfNotes notes;
        if (!find_elf_notes(head_, notes))
          return refused(Errc::invalid, "it begins with an ELF file that is no core");
        if (notes.file_end > size_)
          return refused(Errc::corrupt, fmt::format("an ELF core of {} bytes on a device of {}",
                                                    notes.file_end, size_));
        end_ = notes.file_end;
        break;
      }
      case ImageKind::gzip:
      case ImageKind::zstd:
      case ImageKind::xz:
      case ImageKind::lz4:
        return refused(Errc::not_supported,
                       fmt::format("it begins with {} data, whose end cannot be known: expected "
                                   "what makedumpfile -F writes",
                                   to_string(kind_)));
      default:
        return refused(Errc::invalid, all_zero(head_)
                                          ? "no dump is there: it begins with zeros"
                                          : "no dump is there: expected makedumpfile's flattened "
                                            "stream, a kdump-compressed file or an ELF core from "
                                            "sector 0 on");
    }
    Sha256 sum;
    sum.add(head_.data(), std::min(head_.size(), known_by));
    unsigned char digest[Sha256::size];
    sum.finish(digest);
    char hex[2 * Sha256::size + 1];
    to_hex(digest, sizeof digest, hex);
    session_ = fmt::format("import:{}", hex);
    if (const auto there = store_.find_session(session_); there && there->state == State::complete)
      return refused(Errc::exists,
                     fmt::format("its dump is in the store already: {}", there->id.text()));
    return {};
  }

  void take_hostname(ByteView bytes) {
    KdumpHeader header;
    if (parse_kdump_header(bytes, header) && !header.nodename.empty())
      hostname_ = clean_text(header.nodename);
  }

  /// The machine's name, from the header that the first records write.
  void look_into_flattened() {
    FlattenedParser parser(store_.quota().dump);
    std::vector<ImagePiece> pieces;
    if (parser.feed(head_, pieces) != FlattenedError::none) return;
    for (const ImagePiece& piece : pieces)
      if (piece.offset == 0) take_hostname(piece.bytes);
  }

  Result<void> write(std::span<const ImagePiece> pieces) {
    std::vector<DumpWrite> writes;
    for (const ImagePiece& piece : pieces)
      writes.push_back({piece.offset, piece.bytes, 0});
    return writes.empty() ? Result<void>() : reception_->write(writes);
  }

  Result<void> rearrange() {
    FlattenedParser parser(store_.quota().dump);
    std::vector<std::byte> bytes(import_step);
    for (std::uint64_t at = 0; at < size_ && !parser.ended();) {
      if (options_.stop && options_.stop()) return stopping();
      auto got = source_.read(at, bytes);
      if (!got) return got.error();
      std::vector<ImagePiece> pieces;
      const FlattenedError error = parser.feed(ByteView(bytes).first(*got), pieces);
      if (auto written = write(pieces); !written) return written;
      end_ = parser.state().image_end;
      if (error != FlattenedError::none) {
        doubt_ = {Reason::malformed,
                  fmt::format("the flattened stream breaks off before its end marker, about {} "
                              "bytes into the device: {}",
                              parser.state().position, to_string(error))};
        return {};
      }
      at += *got;
    }
    if (!parser.ended())
      doubt_ = {Reason::malformed, "the device ends before the flattened stream's end marker"};
    return {};
  }

  Result<void> copy() {
    std::vector<std::byte> bytes(import_step);
    for (std::uint64_t at = 0; at < end_;) {
      if (options_.stop && options_.stop()) return stopping();
      const std::size_t n = std::min<std::uint64_t>(bytes.size(), end_ - at);
      auto got = source_.read(at, std::span(bytes).first(n));
      if (!got) return got.error();
      const ByteView part = ByteView(bytes).first(*got);
      const ImagePiece piece{at, part};
      const bool hole = all_zero(part) && at + part.size() < end_;
      auto done = hole ? reception_->zeros(at, at + part.size()) : write({&piece, 1});
      if (!done) return done;
      at += part.size();
    }
    return {};
  }

  static Reason reason_of(Errc code) noexcept {
    return code == Errc::no_space                              ? Reason::no_space
           : code == Errc::shutdown                            ? Reason::shutdown
           : code == Errc::out_of_range || code == Errc::limit ? Reason::malformed
                                                               : Reason::store;
  }
  static Error stopping() { return {Errc::shutdown, "the server is stopping"}; }

  Result<Record> end(const Result<void>& copied) {
    Record& r = reception_->record();
    State state = State::complete;
    if (!copied) {
      state = State::incomplete;
      doubt_ = {reason_of(copied.code()), copied.error().message};
    } else {
      describe_image(*reception_);
      if (doubt_.reason == Reason::none) doubt_ = doubt_image(*reception_, end_);
      if (doubt_.reason != Reason::none) state = State::incomplete;
    }
    if (state == State::complete) {
      r.length = end_;
      r.image = "vmcore";
    }
    const std::uint64_t length = copied ? end_ : reception_->here().end();
    if (auto ended = reception_->end(state, doubt_.reason, doubt_.detail, length); !ended)
      log_error(fmt::format("dump {}: {}", r.id.text(), ended.error().message));
    return r;
  }

  Store& store_;
  ImageReader& source_;
  const std::uint64_t size_;
  const ImportOptions& options_;
  std::vector<std::byte> head_;
  ImageKind kind_ = ImageKind::unknown;
  std::uint64_t end_ = 0;  // of the image
  std::string hostname_, session_;
  Doubt doubt_;
  std::unique_ptr<Reception> reception_;
};

}  // namespace

std::unique_ptr<ImageReader> read_device(DeviceHandle device) {
  return std::make_unique<DeviceReader>(std::move(device));
}

Result<Record> import_dump(Store& store, ImageReader& source, std::uint64_t size,
                           const ImportOptions& options) {
  return Import(store, source, size, options).run();
}

}  // namespace blockloom::dump
