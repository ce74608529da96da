#include "server/dump/netdump_dump.hpp"

#include <algorithm>

#include <fmt/format.h>

#include "proto/dump/panic_text.hpp"
#include "proto/dump/vmcore.hpp"
#include "server/base/log.hpp"

namespace blockloom::dump {
namespace {

std::string clean_field(std::string_view text) {
  std::string out;
  for (const char c : text)
    out += static_cast<unsigned char>(c) < ' ' || c == 0x7f ? ' ' : c;
  while (!out.empty() && out.back() == ' ')
    out.pop_back();
  return out;
}

}  // namespace

NetdumpDump::NetdumpDump(Host& host, const Address& client, std::string label)
    : host_(host), client_(client), label_(std::move(label)) {}

NetdumpDump::NetdumpDump(Host& host, const Address& client, const Record& record)
    : host_(host), client_(client), label_(record.label), adopted_(record) {}

NetdumpDump::~NetdumpDump() = default;

Result<void> NetdumpDump::open() {
  if (reception_) return {};
  if (adopted_) {
    journal_ = std::make_unique<Journal>(host_.store().back_end(), adopted_->id);
    auto here = journal_->read();
    if (!here) return here.error();
    if (here->empty() && adopted_->bytes > 0)
      return Error{Errc::io,
                   "the machine of the server restarted in the middle: what it had in its "
                   "caches is lost"};
    auto resumed = Reception::resume(host_.store(), *adopted_, *here);
    if (!resumed) return resumed.error();
    reception_ = std::move(*resumed);
    log_info(
        fmt::format("dump {} goes on: {} bytes are here", adopted_->id.text(), here->covered()));
    return {};
  }
  Record head;
  head.id.host = host_.host_name(client_);
  head.protocol = "netdump";
  head.address = client_.text();
  head.hostname = head.id.host;
  head.label = label_;
  auto begun = Reception::begin(host_.store(), std::move(head), host_.copies());
  if (!begun) return begun.error();
  reception_ = std::move(*begun);
  journal_ = std::make_unique<Journal>(host_.store().back_end(), reception_->record().id);
  if (auto made = journal_->begin(RangeSet()); !made) return made;
  host_.join_netconsole(*reception_, client_);
  host_.dump_began(reception_->record());
  return {};
}

NetdumpDump::Outcome NetdumpDump::apply(const NetdumpBatch& batch, std::uint64_t duplicates) {
  Outcome outcome;
  outcome.failed = failed_;
  if (failed_) return outcome;
  if (auto opened = open(); !opened) {
    fail(opened.error());
    outcome.failed = true;
    return outcome;
  }
  reception_->record().packets += batch.items.size();
  reception_->record().duplicates += duplicates;
  for (std::size_t i = 0; i < batch.items.size() && !outcome.failed;) {
    const NetdumpBatch::Item& item = batch.items[i];
    const ByteView bytes = ByteView(batch.data).subspan(item.at, item.size);
    std::size_t next = i + 1;
    Result<void> done;
    switch (item.type) {
      case NetdumpType::vmcore:
        while (next < batch.items.size() && batch.items[next].type == NetdumpType::vmcore)
          ++next;
        done = write(batch, i, next, outcome);
        break;
      case NetdumpType::kdh:
        if (take_header(bytes)) outcome.done.push_back(i);
        break;
      case NetdumpType::ekcd_key:
        done = take_key(item.offset, bytes);
        if (done)
          outcome.done.push_back(i);
        else if (done.code() == Errc::invalid)
          done = {};  // a lie of one packet: no ack, and that is all
        break;
      case NetdumpType::finished:
        finish();
        outcome.done.push_back(i);
        outcome.over = true;
        return outcome;
      case NetdumpType::herald:
        outcome.done.push_back(i);
        break;
    }
    if (!done) {
      fail(done.error());
      outcome.failed = true;
    }
    i = next;
  }
  return outcome;
}

Result<void> NetdumpDump::write(const NetdumpBatch& batch, std::size_t first, std::size_t last,
                                Outcome& outcome) {
  std::vector<DumpWrite> writes;
  for (std::size_t i = first; i < last; ++i) {
    const NetdumpBatch::Item& item = batch.items[i];
    writes.push_back({item.offset, ByteView(batch.data).subspan(item.at, item.size), 0});
  }
  // A hostile offset costs its own packet only.
  auto all = reception_->write(writes);
  std::vector<bool> good(writes.size(), bool(all));
  if (!all && all.code() == Errc::out_of_range) {
    log_warning(fmt::format("dump {}: {}", reception_->record().id.text(), all.error().message));
    for (std::size_t i = 0; i < writes.size(); ++i) {
      auto one = reception_->write({&writes[i], 1});
      if (!one && one.code() != Errc::out_of_range) return one;
      good[i] = bool(one);
    }
  } else if (!all) {
    return all;
  }
  RangeSet merged;
  for (std::size_t i = 0; i < writes.size(); ++i)
    if (good[i]) merged.insert(writes[i].offset, writes[i].offset + writes[i].bytes.size());
  if (!merged.empty())
    if (auto noted = journal_->add(merged.ranges(), reception_->here()); !noted) return noted;
  for (std::size_t i = 0; i < writes.size(); ++i)
    if (good[i]) outcome.done.push_back(first + i);
  return {};
}

bool NetdumpDump::take_header(ByteView bytes) {
  KernelDumpHeader header;
  if (!parse_kernel_dump_header(bytes, header)) {
    log_warning(fmt::format("dump {}: a kernel dump header that cannot be read",
                            reception_->record().id.text()));
    return false;
  }
  header_ = header;
  Record& r = reception_->record();
  r.hostname = clean_field(header.hostname);
  if (r.hostname.empty()) r.hostname = r.id.host;
  r.kernel = clean_field(header.version_string);
  r.machine = clean_field(header.architecture);
  r.panic = clean_field(header.panic_string);
  r.signature = normalised(r.panic);
  r.crash_time = static_cast<double>(header.time);
  r.length = header.length;
  r.encrypted = header.key_size > 0;
  r.compression = header.compression == DumpCompression::gzip   ? "gzip"
                  : header.compression == DumpCompression::zstd ? "zstd"
                                                                : "";
  host_.store().update(r);
  return true;
}

Result<void> NetdumpDump::take_key(std::uint64_t offset, ByteView bytes) {
  if (offset > kernel_dump_key_max || bytes.size() > kernel_dump_key_max - offset)
    return Error{Errc::invalid, "a key that is too long"};
  const std::size_t end = offset + bytes.size();
  if (key_.size() < end) key_.resize(end);
  std::copy(as_text(bytes).begin(), as_text(bytes).end(),
            key_.begin() + static_cast<std::ptrdiff_t>(offset));
  reception_->record().encrypted = true;
  return reception_->put_file("key", key_);
}

/// The panic's text and message buffer from the dump itself, as far as it is readable.
void NetdumpDump::find_messages() {
  Record& r = reception_->record();
  if (r.encrypted || !r.compression.empty()) return;
  std::vector<std::byte> page(4096);
  auto got = reception_->read(0, page);
  if (!got) return;
  page.resize(*got);
  r.kind = std::string(to_string(sniff_image(page)));
  MinidumpMessages where;
  if (!find_minidump_messages(page, where)) return;
  if (!reception_->here().contains(where.offset, where.offset + where.size)) return;
  std::vector<std::byte> ring(where.size);
  got = reception_->read(where.offset, ring);
  if (!got || *got != ring.size()) return;
  const std::string text = text_of_message_ring(ring);
  const std::string panic = r.panic, signature = r.signature;
  if (auto put = reception_->put_dmesg(text); !put) log_warning(put.error().message);
  // The header's own word is the kernel's last; the buffer may have the trace behind it.
  if (panic.empty()) return;
  if (r.panic.find(panic) == std::string::npos) r.signature = signature;
  r.panic = panic;
}

void NetdumpDump::name_image() {
  Record& r = reception_->record();
  std::string name = header_ && header_->text_dump ? "textdump.tar" : "vmcore";
  if (r.encrypted) name = "vmcore_encrypted";
  if (header_) name += suffix_of(header_->compression);
  r.image = name;
  if (header_ && header_->text_dump) r.kind = "textdump";
}

void NetdumpDump::judge(State& state, Reason& reason, std::string& detail, std::uint64_t& length) {
  const RangeSet& here = reception_->here();
  Record& r = reception_->record();
  state = State::incomplete;
  length = here.end();
  if (!header_) {
    reason = Reason::no_header;
    detail = "the sender was done and sent no kernel dump header: the length is not known";
    return;
  }
  if (!header_->parity_ok) {
    reason = Reason::bad_header;
    detail = "the kernel dump header's parity is wrong";
    return;
  }
  // Compressed dumps are padded to whole blocks on the wire.
  const std::uint64_t block = std::clamp<std::uint64_t>(header_->block_size, 1, 1u << 20);
  if (here.end() > header_->length && here.end() - header_->length >= block) {
    reason = Reason::bad_header;
    detail = fmt::format("the header names {} bytes, and {} came", header_->length, here.end());
    return;
  }
  length = header_->length;
  r.missing = here.missing(length);
  r.holes = here.holes(length);
  reason = Reason::none;
  state = r.missing == 0 ? State::complete : State::holes;
  if (state == State::holes)
    detail = fmt::format("{} bytes are missing: the sender took them for acknowledged", r.missing);
}

void NetdumpDump::finish() {
  State state;
  Reason reason;
  std::string detail;
  std::uint64_t length = 0;
  judge(state, reason, detail, length);
  end(state, reason, std::move(detail), length);
}

void NetdumpDump::end_early(Reason reason, std::string detail) {
  if (failed_) return;
  if (!reception_ && !adopted_) return;  // a herald, and nothing after it
  if (auto opened = open(); !opened) return fail(opened.error());
  State state;
  Reason other;
  std::string other_detail;
  std::uint64_t length = 0;
  judge(state, other, other_detail, length);
  if (state == State::complete)
    return end(State::complete, Reason::none,
               "every byte is here, though the sender never said that it was done", length);
  reception_->record().missing = 0;
  reception_->record().holes.clear();
  end(State::incomplete, reason, std::move(detail), reception_->here().end());
}

void NetdumpDump::end(State state, Reason reason, std::string detail, std::uint64_t length) {
  Record& r = reception_->record();
  find_messages();
  if (state != State::incomplete) name_image();
  write_info(state == State::complete ? "complete" : "incomplete");
  if (auto ended = reception_->end(state, reason, std::move(detail), length); !ended)
    log_error(fmt::format("dump {}: {}", r.id.text(), ended.error().message));
  // A dump that the server's own end cut short may go on.
  if (reason != Reason::shutdown) journal_->remove();
  const Record record = r;
  failed_ = true;  // over: nothing more is taken
  reception_.reset();
  host_.dump_ended(record);
}

/// What savecore(8) and netdumpd(8) write, for the scripts that read it.
void NetdumpDump::write_info(std::string_view outcome) {
  const Record& r = reception_->record();
  std::string text = fmt::format("Dump from {} [{}]\n", r.hostname, r.address);
  if (header_) {
    text += fmt::format("  Architecture: {}\n  Architecture Version: {}\n  Dump Length: {}\n",
                        r.machine, header_->architecture_version, header_->length);
    text += fmt::format("  Blocksize: {}\n  Compression: {}\n  Dumptime: {}\n", header_->block_size,
                        r.compression.empty() ? "none" : r.compression, header_->time);
    text += fmt::format("  Hostname: {}\n  Version String: {}\n  Panic String: {}\n", r.hostname,
                        r.kernel, r.panic);
    text += fmt::format("  Header Parity Check: {}\n", header_->parity_ok ? "Pass" : "Fail");
  }
  text += fmt::format("Dump {}\n", outcome);
  if (auto put = reception_->put_file("info.txt", text); !put) log_warning(put.error().message);
}

void NetdumpDump::fail(const Error& error) {
  failed_ = true;
  const bool full = error.code == Errc::no_space;
  const Reason reason = full ? Reason::no_space : Reason::store;
  if (!reception_) {
    log_error(fmt::format("netdump from {}: {}", client_.text(), error.message));
    if (adopted_) {
      Record record = *adopted_;
      record.state = State::incomplete;
      record.reason = Reason::shutdown;
      record.detail = error.message;
      record.finished = wall_time();
      if (auto saved = host_.store().save(record); !saved) log_error(saved.error().message);
      host_.dump_ended(record);
    } else if (full) {
      Record record;
      record.id.host = host_.host_name(client_);
      record.address = client_.text();
      record.detail = error.message;
      host_.no_space(record);
    }
    return;
  }
  if (full) {
    Record record = reception_->record();
    record.detail = error.message;
    host_.no_space(record);
  }
  end(State::incomplete, reason, error.message, reception_->here().end());
}

}  // namespace blockloom::dump
