#include "server/dump/afterwards.hpp"

#include <fmt/format.h>

#include "server/base/log.hpp"
#include "server/dump/aftermath.hpp"

namespace blockloom::dump {
namespace {

constexpr std::size_t threads = 2;

std::string_view event_of(const Record& record) {
  switch (record.state) {
    case State::complete:
      return "dump_complete";
    case State::holes:
      return "dump_holes";
    case State::incomplete:
      return "dump_incomplete";
    case State::receiving:
      return "dump_started";
  }
  return "dump_incomplete";
}

/// What the hook is told; netdumpd's words where it has them.
std::string_view hook_reason(const Record& record) {
  switch (record.state) {
    case State::complete:
      return "success";
    case State::holes:
      return "holes";
    case State::receiving:
      return "start";
    case State::incomplete:
      break;
  }
  return record.reason == Reason::timeout    ? "timeout"
         : record.reason == Reason::no_space ? "nospace"
                                             : "error";
}

}  // namespace

Afterwards::Afterwards(const Options& options, Store& store, Notify notify)
    : options_(options),
      store_(store),
      notify_(std::move(notify)),
      workers_("bl-dump-after", threads) {}

void Afterwards::tell(std::string_view kind, const Record& record) {
  if (notify_) notify_(kind, record);
}

/// What comes after one dump is done in order: its start's hook before its end's.
void Afterwards::after(const DumpId& id, std::function<void()> job) {
  std::shared_ptr<Workers::Strand> strand;
  {
    const std::lock_guard lock(mutex_);
    auto& kept = strands_[id];
    if (!kept) kept = std::make_shared<Workers::Strand>();
    strand = kept;
  }
  workers_.post(strand, std::move(job));
}

void Afterwards::began(const Record& record) {
  tell("dump_started", record);
  if (options_.hook.empty()) return;
  after(record.id, [this, record] { run_hook(options_, store_, record, "start"); });
}

void Afterwards::no_space(const Record& record) {
  log_error(fmt::format("dump {} from {}: no space: {}", record.id.text(), record.address,
                        record.detail));
  tell("dump_no_space", record);
  // Of a dump that has no record yet the hook is told under the host's name alone.
  if (!options_.hook.empty())
    after(record.id, [this, record] { run_hook(options_, store_, record, "nospace"); });
}

void Afterwards::ended(const Record& record) {
  log_info(fmt::format("dump {}: {}: {} bytes from {}{}{}", record.id.text(), state_text(record),
                       record.bytes, record.address, record.detail.empty() ? "" : ": ",
                       record.detail));
  tell(event_of(record), record);
  if (record.reason == Reason::shutdown) return;
  after(record.id, [this, id = record.id] {
    look_at(id);
    const std::lock_guard lock(mutex_);
    strands_.erase(id);
  });
}

void Afterwards::look_at(const DumpId& id) {
  const auto current = store_.find(id);
  if (!current) return;
  Record record = *current;
  store_.hold(id);
  if (record.state != State::incomplete) {
    auto verdict = verify_image(store_, record, [this] { return stopping(); });
    if (verdict)
      record.sha256 = verdict->sha256;
    else
      log_warning(fmt::format("dump {}: digest: {}", id.text(), verdict.error().message));
  }
  find_dmesg(store_, record);
  auto amended = store_.amend(id, [&](Record& now) {
    now.sha256 = record.sha256;
    now.dmesg = record.dmesg;
    now.panic = record.panic;
    now.signature = record.signature;
  });
  if (!amended) log_warning(amended.error().message);
  store_.let_go(id);
  run_hook(options_, store_, record, hook_reason(record));
  retain_now();
}

void Afterwards::retain() {
  after({}, [this] { retain_now(); });
}

void Afterwards::retain_now() {
  for (const DumpId& id : store_.retain()) {
    Record gone;
    gone.id = id;
    removed(gone);
  }
}

}  // namespace blockloom::dump
