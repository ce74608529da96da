#include "server/dump/reception.hpp"

#include <algorithm>

#include <fmt/format.h>

#include "proto/dump/panic_text.hpp"
#include "server/base/log.hpp"

namespace blockloom::dump {

Result<std::unique_ptr<Reception>> Reception::begin(Store& store, Record head,
                                                    const Copies& copies) {
  if (auto room = store.admit(head.id.host); !room) return room.error();
  if (auto begun = store.begin(head); !begun) return begun.error();
  std::unique_ptr<Reception> made(new Reception(store, std::move(head)));
  if (auto opened = made->open(false, copies); !opened) {
    const Error why = opened.error();
    const Reason reason = why.code == Errc::no_space ? Reason::no_space : Reason::store;
    if (auto ended = made->end(State::incomplete, reason, why.message, 0); !ended)
      log_warning(fmt::format("dump {}: {}", made->record_.id.text(), ended.error().message));
    return why;
  }
  return made;
}

Result<std::unique_ptr<Reception>> Reception::resume(Store& store, Record record,
                                                     const RangeSet& here) {
  std::unique_ptr<Reception> made(new Reception(store, std::move(record)));
  made->here_ = here;
  made->image_end_ = here.end();
  if (auto opened = made->open(true, {}); !opened) return opened.error();
  made->record_.state = State::receiving;
  made->record_.reason = Reason::none;
  made->record_.detail.clear();
  made->record_.finished = 0;
  if (auto saved = made->save(); !saved) return saved.error();
  return made;
}

Result<void> Reception::open(bool resume, const Copies& copies) {
  writer_.add(store_.back_end().image(record_.id, resume));
  for (const auto& copy : copies)
    if (auto target = copy(record_.id)) writer_.add(std::move(target));
  DumpPlan plan;
  plan.largest = store_.quota().dump;
  plan.here = image_end_;
  return writer_.configure(plan);
}

Result<void> Reception::write(std::span<const DumpWrite> writes) {
  // Runs in which nothing overlaps; the usual batch is one.
  std::size_t first = 0;
  RangeSet seen;
  for (std::size_t i = 0; i < writes.size(); ++i) {
    const std::uint64_t begin = writes[i].offset, end = begin + writes[i].bytes.size();
    if (seen.overlaps(begin, end)) {
      if (auto done = write_run(writes.subspan(first, i - first)); !done) return done;
      first = i;
      seen = RangeSet();
    }
    seen.insert(begin, end);
  }
  return write_run(writes.subspan(first));
}

Result<void> Reception::write_run(std::span<const DumpWrite> run) {
  std::uint64_t bytes = 0, end = image_end_;
  for (const DumpWrite& write : run) {
    if (write.offset > image_end_ && write.offset - image_end_ > gap_max)
      return Error{Errc::out_of_range,
                   fmt::format("a write at {} of a dump that ends at {}: that is no dump",
                               write.offset, image_end_)};
    const std::uint64_t write_end = write.offset + write.bytes.size();
    end = std::max(end, write_end);
    bytes += write.bytes.size();
  }
  // What is written again counts again: a bound from above that never lets a sender write more
  // than its quota. The end sets it right.
  if (auto room = store_.charge(record_.id, bytes, end); !room) return room;
  if (auto room = writer_.reserve(end); !room) return room;
  if (auto done = writer_.write(run); !done) return done;
  for (const DumpWrite& write : run)
    if (!here_.insert(write.offset, write.offset + write.bytes.size()))
      return Error{Errc::limit, "a dump in too many pieces"};
  image_end_ = end;
  record_.bytes = here_.covered();
  record_.updated = wall_time();
  store_.update(record_);
  return {};
}

Result<void> Reception::zeros(std::uint64_t begin, std::uint64_t end) {
  if (auto room = store_.charge(record_.id, end - begin, end); !room) return room;
  if (!here_.insert(begin, end)) return Error{Errc::limit, "a dump in too many pieces"};
  image_end_ = std::max(image_end_, end);
  record_.bytes = here_.covered();
  record_.updated = wall_time();
  store_.update(record_);
  return {};
}

Result<void> Reception::sync() {
  return writer_.sync();
}

Result<std::size_t> Reception::read(std::uint64_t offset, std::span<std::byte> into) {
  return writer_.read(offset, into);
}

Result<void> Reception::put_dmesg(std::string_view text) {
  const PanicText panic = find_panic(text);
  if (!panic.line.empty()) {
    record_.panic = panic.line;
    record_.signature = panic.signature;
  }
  record_.dmesg = true;
  if (auto put = put_file("dmesg.txt", text); !put) return put;
  return save();
}

Result<void> Reception::put_file(std::string_view name, std::string_view bytes) {
  if (auto room = store_.charge(record_.id, bytes.size(), 0); !room) return room;
  return store_.back_end().put(record_.id, name, bytes);
}

Result<void> Reception::save() {
  return store_.save(record_);
}

Result<void> Reception::end(State state, Reason reason, std::string detail, std::uint64_t length) {
  auto finished = writer_.finish(length);
  if (!finished && state != State::incomplete) {
    state = State::incomplete;
    reason = finished.code() == Errc::no_space ? Reason::no_space : Reason::store;
    detail = finished.error().message;
  }
  for (const DumpWriter::Report& report : writer_.reports())
    if (!report.failure.empty()) record_.lost_targets.push_back(report.failure);
  record_.state = state;
  record_.reason = reason;
  record_.detail = std::move(detail);
  record_.finished = record_.updated = wall_time();
  if (finished && !record_.image.empty())
    if (auto named = store_.back_end().name_image(record_.id, record_.image); !named) {
      log_warning(fmt::format("dump {}: {}", record_.id.text(), named.error().message));
      record_.image.clear();
    }
  auto saved = save();
  return finished ? saved : finished;
}

}  // namespace blockloom::dump
