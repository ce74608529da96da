#include "server/dump/stream_dump.hpp"

#include <algorithm>

#include <fmt/format.h>

#include "proto/text/number.hpp"
#include "server/base/log.hpp"
#include "server/dump/inspect.hpp"

namespace blockloom::dump {
namespace {

constexpr const char* state_file = "stream.state";
constexpr const char* crc_file = "stream.crcs";
constexpr std::size_t crcs_max = 64u << 20;  // bytes: 4 TiB in chunks of 256 KiB

std::string hex(ByteView bytes) {
  std::string out(2 * bytes.size() + 1, ' ');
  to_hex(reinterpret_cast<const unsigned char*>(bytes.data()), bytes.size(), out.data());
  out.pop_back();
  return out;
}

/// 0 where it is not there.
std::uint64_t number_of(const StreamLines& lines, std::string_view key) {
  const auto found = lines.find(key);
  std::uint64_t value = 0;
  if (found != lines.end()) parse_whole(found->second, value);
  return value;
}

}  // namespace

StreamDump::StreamDump(Host& host, const Address& sender) : host_(host), sender_(sender) {}
StreamDump::~StreamDump() = default;

const Record& StreamDump::record() const {
  return reception_ ? reception_->record() : record_;
}

bool StreamDump::has_dmesg() const {
  return record().dmesg;
}

Result<void> StreamDump::open(const StreamHello& hello) {
  if (reception_ || over_) return {};
  chunk_ = hello.chunk;
  kind_ = hello.kind;
  kind_known_ = kind_ != ImageKind::unknown;
  Record head;
  head.id.host = safe_host(hello.host);
  head.protocol = "stream";
  head.address = sender_.text();
  head.hostname = hello.host;
  head.kernel = clean_text(hello.release);
  head.machine = clean_text(hello.machine);
  head.session = hello.session;
  head.chunk = hello.chunk;
  head.kind = std::string(to_string(kind_));
  auto begun = Reception::begin(host_.store(), std::move(head), host_.copies());
  if (!begun) return begun.error();
  reception_ = std::move(*begun);
  if (kind_ == ImageKind::flattened)
    flat_ = std::make_unique<FlattenedParser>(host_.store().quota().dump);
  host_.join_netconsole(*reception_, sender_);
  host_.dump_began(reception_->record());
  return save_state();
}

Result<void> StreamDump::reopen(const Record& record) {
  record_ = record;
  if (auto loaded = load_state(); !loaded) {
    over_ = true;
    return loaded;
  }
  // What is behind the durable position comes again; for a rearranged image nothing tells which
  // bytes are here but the parser's state, and what comes again is the same.
  RangeSet here;
  const std::uint64_t end = flat_ ? flat_->state().image_end : durable_;
  if (end > 0) here.insert(0, end);
  auto resumed = Reception::resume(host_.store(), record, here);
  if (!resumed) {
    over_ = true;
    return resumed.error();
  }
  reception_ = std::move(*resumed);
  log_info(fmt::format("dump {} goes on: {} bytes of its stream are durable", record.id.text(),
                       durable_));
  return {};
}

Result<void> StreamDump::put_dmesg(std::string_view text) {
  if (!reception_) return {};
  auto put = reception_->put_dmesg(text);
  if (put && !reception_->record().panic.empty())
    log_info(
        fmt::format("dump {}: {}", reception_->record().id.text(), reception_->record().panic));
  return put;
}

std::uint32_t StreamDump::crc_of_zeros(std::uint64_t length) {
  if (length == chunk_ && zero_crc_ != 0) return zero_crc_;
  const std::vector<std::byte> zeros(length);
  const std::uint32_t crc = crc32c(0, zeros.data(), zeros.size());
  if (length == chunk_) zero_crc_ = crc;
  return crc;
}

void StreamDump::begin_kind(ByteView first) {
  if (kind_known_) return;
  kind_known_ = true;
  kind_ = sniff_image(first);
  if (kind_ == ImageKind::flattened)
    flat_ = std::make_unique<FlattenedParser>(host_.store().quota().dump);
  reception_->record().kind = std::string(to_string(kind_));
}

Result<void> StreamDump::append(const std::vector<StreamChunk>& chunks) {
  if (failure_) failure_ = append_all(chunks);
  return failure_;
}

Result<void> StreamDump::append_all(const std::vector<StreamChunk>& chunks) {
  if (!reception_) return Error{Errc::busy, "the dump is over"};
  std::vector<DumpWrite> writes;
  for (const StreamChunk& chunk : chunks)
    if (auto taken = take(chunk, writes); !taken) return taken;
  return write(writes);
}

Result<void> StreamDump::write(std::vector<DumpWrite>& writes) {
  if (writes.empty()) return {};
  auto done = reception_->write(writes);
  writes.clear();
  return done;
}

Result<void> StreamDump::take(const StreamChunk& chunk, std::vector<DumpWrite>& writes) {
  if (position_ == 0) begin_kind(chunk.bytes);
  if (digest_.chunks() + chunk.length / chunk_ >= crcs_max / 4)
    return Error{Errc::limit,
                 fmt::format("a stream of over {} chunks: larger chunks are needed", crcs_max / 4)};
  if (chunk.bytes.empty()) {
    if (auto before = write(writes); !before) return before;
    return take_zeros(chunk.length);
  }
  digest_.add(chunk.crc);
  if (flat_) {
    if (auto taken = take_flat(chunk.bytes, writes); !taken) return taken;
  } else {
    writes.push_back({position_, chunk.bytes, 0});
  }
  position_ += chunk.length;
  ++reception_->record().packets;
  return {};
}

Result<void> StreamDump::take_zeros(std::uint64_t length) {
  if (!flat_) {
    if (auto noted = reception_->zeros(position_, position_ + length); !noted) return noted;
  }
  while (length > 0) {
    const std::uint64_t n = std::min<std::uint64_t>(length, chunk_);
    digest_.add(crc_of_zeros(n));
    if (flat_) {
      // Zeros inside a flattened stream are bytes like any other.
      const std::vector<std::byte> zeros(n);
      std::vector<DumpWrite> writes;
      if (auto taken = take_flat(zeros, writes); !taken) return taken;
      if (auto written = write(writes); !written) return written;
    }
    position_ += n;
    length -= n;
  }
  return {};
}

Result<void> StreamDump::take_flat(ByteView bytes, std::vector<DumpWrite>& writes) {
  if (!trouble_.empty()) return {};
  std::vector<ImagePiece> pieces;
  const FlattenedError error = flat_->feed(bytes, pieces);
  for (const ImagePiece& piece : pieces)
    writes.push_back({piece.offset, piece.bytes, 0});
  if (error != FlattenedError::none)
    trouble_ = fmt::format("the flattened stream is broken: {}", to_string(error));
  return {};
}

Result<void> StreamDump::sync() {
  if (!reception_ || durable_ == position_) return {};
  if (auto synced = reception_->sync(); !synced) return synced;
  if (auto saved = save_state(); !saved) return saved;
  durable_ = position_;
  return {};
}

Result<void> StreamDump::save_state() {
  BackEnd& back_end = host_.store().back_end();
  const DumpId& id = reception_->record().id;
  const auto& crcs = digest_.crcs();
  std::string bytes;
  for (std::size_t i = saved_crcs_; i < crcs.size(); ++i) {
    unsigned char word[4];
    wire::put(word, crcs[i], 4);
    bytes.append(reinterpret_cast<const char*>(word), 4);
  }
  if (!bytes.empty()) {
    if (auto w = back_end.write(id, crc_file, 4 * saved_crcs_, bytes); !w) return w;
    if (auto synced = back_end.sync_file(id, crc_file); !synced) return synced;
    saved_crcs_ = crcs.size();
  }
  StreamLines lines{{"position", std::to_string(position_)},
                    {"chunk", std::to_string(chunk_)},
                    {"crcs", std::to_string(crcs.size())},
                    {"kind", kind_known_ ? std::string(to_string(kind_)) : ""},
                    {"trouble", trouble_}};
  if (flat_) {
    const FlattenedState& s = flat_->state();
    lines["flat_position"] = std::to_string(s.position);
    lines["flat_offset"] = std::to_string(s.record_offset);
    lines["flat_left"] = std::to_string(s.record_left);
    lines["flat_end"] = std::to_string(s.image_end);
    lines["flat_ended"] = s.ended ? "1" : "0";
    lines["flat_partial"] = hex(ByteView(s.partial).first(s.held));
  }
  return back_end.put(id, state_file, write_stream_lines(lines));
}

Result<void> StreamDump::load_state() {
  BackEnd& back_end = host_.store().back_end();
  auto text = back_end.get(record_.id, state_file, 4096);
  if (!text) return text.error();
  StreamLines lines;
  if (!*text || !parse_stream_lines(as_bytes(**text), lines))
    return Error{Errc::corrupt,
                 fmt::format("dump {}: its stream's state is lost", record_.id.text())};
  chunk_ = static_cast<std::uint32_t>(number_of(lines, "chunk"));
  const std::size_t count = number_of(lines, "crcs");
  auto bytes = back_end.get(record_.id, crc_file, crcs_max);
  if (!bytes) return bytes.error();
  const std::size_t have = *bytes ? (*bytes)->size() / 4 : 0;
  if (chunk_ < wire::chunk_min || chunk_ > wire::chunk_max || have < count)
    return Error{Errc::corrupt,
                 fmt::format("dump {}: its stream's state is broken", record_.id.text())};
  for (std::size_t i = 0; i < count; ++i)
    digest_.add(static_cast<std::uint32_t>(
        wire::get(reinterpret_cast<const unsigned char*>((*bytes)->data()) + 4 * i, 4)));
  saved_crcs_ = count;
  position_ = durable_ = number_of(lines, "position");
  kind_known_ = parse_image_kind(lines["kind"], kind_);
  trouble_ = lines["trouble"];
  if (kind_ != ImageKind::flattened) return {};
  FlattenedState state;
  state.position = number_of(lines, "flat_position");
  state.record_offset = number_of(lines, "flat_offset");
  state.record_left = number_of(lines, "flat_left");
  state.image_end = number_of(lines, "flat_end");
  state.ended = lines["flat_ended"] == "1";
  const std::string& partial = lines["flat_partial"];
  for (std::size_t i = 0; i + 1 < partial.size() && state.held < state.partial.size(); i += 2) {
    unsigned value = 0;
    parse_whole(std::string_view(partial).substr(i, 2), value, 16);
    state.partial[state.held++] = static_cast<std::byte>(value);
  }
  flat_ = std::make_unique<FlattenedParser>(host_.store().quota().dump, state);
  return {};
}

void StreamDump::judge(std::uint64_t length, ByteView digest, State& state, Reason& reason,
                       std::string& detail) {
  state = State::incomplete;
  const auto ours = digest_.finish(length);
  if (length != position_ ||
      !std::equal(digest.begin(), digest.end(), reinterpret_cast<const std::byte*>(ours.data()),
                  reinterpret_cast<const std::byte*>(ours.data()) + ours.size())) {
    reason = Reason::digest;
    detail = "the sender's digest is not that of what came";
    return;
  }
  if (!trouble_.empty() || (flat_ && !flat_->ended())) {
    reason = Reason::malformed;
    detail = !trouble_.empty() ? trouble_ : "the flattened stream ends before its end marker";
    return;
  }
  const Doubt doubt = doubt_image(*reception_, flat_ ? flat_->state().image_end : length);
  if (doubt.reason != Reason::none) {
    reason = doubt.reason;
    detail = doubt.detail;
    return;
  }
  state = State::complete;
  reason = Reason::none;
}

Result<void> StreamDump::finish(std::uint64_t length, ByteView digest) {
  if (over_) return {};
  if (!failure_) return failure_;
  if (auto synced = sync(); !synced) return synced;
  State state;
  Reason reason;
  std::string detail;
  judge(length, digest, state, reason, detail);
  if (!flat_ && reason != Reason::digest) reception_->record().stream_digest = hex(digest);
  end(state, reason, std::move(detail));
  return {};
}

void StreamDump::end_early(Reason reason, std::string detail) {
  if (reception_) end(State::incomplete, reason, std::move(detail));
}

void StreamDump::end(State state, Reason reason, std::string detail) {
  Record& r = reception_->record();
  describe_image(*reception_);
  // After a failure the position counts what could not be written, too.
  const std::uint64_t length = flat_      ? flat_->state().image_end
                               : failure_ ? position_
                                          : reception_->here().first_missing(0);
  if (state == State::complete) {
    r.length = length;
    r.image = std::string(flat_ ? "vmcore" : file_name_of(kind_));
    if (kind_ == ImageKind::gzip) r.compression = "gzip";
    if (kind_ == ImageKind::zstd) r.compression = "zstd";
  }
  if (auto ended = reception_->end(state, reason, std::move(detail), length); !ended)
    log_error(fmt::format("dump {}: {}", r.id.text(), ended.error().message));
  record_ = r;
  over_ = true;
  reception_.reset();
  if (reason != Reason::shutdown)
    for (const char* file : {state_file, crc_file})
      if (auto gone = host_.store().back_end().erase(record_.id, file); !gone)
        log_warning(gone.error().message);
  host_.dump_ended(record_);
}

}  // namespace blockloom::dump
