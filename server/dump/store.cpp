#include "server/dump/store.hpp"

#include <algorithm>
#include <chrono>
#include <ctime>

#include <fmt/format.h>

#include "server/base/log.hpp"
#include "server/base/size_text.hpp"

namespace blockloom::dump {
namespace {

constexpr const char* record_file = "record.json";
constexpr std::size_t record_max = 1u << 20;
constexpr std::uint64_t check_every = 16u << 20;  // bytes between two looks at the free space
constexpr Duration check_within = std::chrono::seconds(1);
constexpr int names_tried = 1000;

std::string time_name(double now) {
  const std::tm utc = utc_of(now);
  return fmt::format("{:04}{:02}{:02}T{:02}{:02}{:02}Z", utc.tm_year + 1900, utc.tm_mon + 1,
                     utc.tm_mday, utc.tm_hour, utc.tm_min, utc.tm_sec);
}

}  // namespace

std::tm utc_of(double wall) noexcept {
  const auto seconds = static_cast<std::time_t>(wall);
  std::tm utc{};
  ::gmtime_r(&seconds, &utc);
  return utc;
}

double wall_time() noexcept {
  return std::chrono::duration<double>(std::chrono::system_clock::now().time_since_epoch()).count();
}

Store::Store(std::unique_ptr<BackEnd> back_end, Quota quota, Retention retention)
    : back_end_(std::move(back_end)), quota_(quota), retention_(retention) {}

Record Store::recovered(const DumpId& id, std::string_view why) const {
  log_warning(fmt::format("dump {}: its record is lost: {}", id.text(), why));
  Record record;
  record.id = id;
  record.state = State::incomplete;
  record.reason = Reason::store;
  record.detail = fmt::format("its record is lost: {}", why);
  record.hostname = id.host;
  return record;
}

Result<void> Store::load() {
  auto ids = back_end_->list();
  if (!ids) return ids.error();
  for (const DumpId& id : *ids) {
    auto text = back_end_->get(id, record_file, record_max);
    if (!text) return text.error();
    Record record;
    if (!*text) {
      record = recovered(id, "there is none");
    } else if (auto parsed = parse_record(**text); parsed && parsed->id == id) {
      record = std::move(*parsed);
    } else {
      record = recovered(id, parsed ? "it is another dump's" : parsed.error().message);
    }
    const std::lock_guard lock(mutex_);
    Entry& entry = entries_[id];
    entry.charged = record.bytes;
    host_bytes_[id.host] += record.bytes;
    total_bytes_ += record.bytes;
    entry.record = std::move(record);
  }
  return {};
}

Result<void> Store::check_free(std::uint64_t bytes) {
  std::uint64_t keep = 0;
  {
    const std::lock_guard lock(mutex_);
    unchecked_ += bytes;
    const TimePoint now = Clock::now();
    const bool due = unchecked_ >= check_every || now - checked_at_ >= check_within || bytes == 0;
    if (quota_.keep_free == 0 || !due) return {};
    unchecked_ = 0;
    checked_at_ = now;
    keep = quota_.keep_free;
  }
  auto space = back_end_->space();
  if (!space) return space.error();
  if (space->free >= keep + bytes) return {};
  return Error{Errc::no_space, fmt::format("the dump store has {} free, and {} are to stay free",
                                           size_text(space->free), size_text(keep))};
}

Result<void> Store::admit(std::string_view host) {
  if (auto room = check_free(0); !room) return room;
  const std::lock_guard lock(mutex_);
  const auto used = host_bytes_.find(host);
  if (quota_.host != 0 && used != host_bytes_.end() && used->second >= quota_.host)
    return Error{Errc::no_space, fmt::format("host '{}' has {} of dumps, its quota is {}", host,
                                             size_text(used->second), size_text(quota_.host))};
  if (quota_.total != 0 && total_bytes_ >= quota_.total)
    return Error{Errc::no_space, fmt::format("the dumps have {}, their quota is {}",
                                             size_text(total_bytes_), size_text(quota_.total))};
  return {};
}

Result<void> Store::begin(Record& record) {
  record.started = record.updated = wall_time();
  const std::string name = time_name(record.started);
  Result<void> made = Error{Errc::exists, "no free name for a dump"};
  for (int i = 1; i <= names_tried && made.code() == Errc::exists; ++i) {
    record.id.time = i == 1 ? name : fmt::format("{}.{}", name, i);
    made = back_end_->create(record.id);
  }
  if (!made) return made;
  {
    const std::lock_guard lock(mutex_);
    entries_[record.id].record = record;
  }
  return save(record);
}

Result<void> Store::charge(const DumpId& id, std::uint64_t bytes, std::uint64_t end) {
  {
    const std::lock_guard lock(mutex_);
    const auto found = entries_.find(id);
    if (found == entries_.end())
      return Error{Errc::removed, fmt::format("dump {} was removed", id.text())};
    std::uint64_t& host = host_bytes_[id.host];
    const auto full = [&](std::string_view what, std::uint64_t limit) {
      return Error{Errc::no_space,
                   fmt::format("{} reaches its quota of {}", what, size_text(limit))};
    };
    if (quota_.dump != 0 && end > quota_.dump) return full("the dump", quota_.dump);
    if (quota_.host != 0 && host + bytes > quota_.host)
      return full(fmt::format("host '{}'", id.host), quota_.host);
    if (quota_.total != 0 && total_bytes_ + bytes > quota_.total)
      return full("the dump store", quota_.total);
    found->second.charged += bytes;
    host += bytes;
    total_bytes_ += bytes;
  }
  if (auto room = check_free(bytes); !room) {
    const std::lock_guard lock(mutex_);
    if (const auto found = entries_.find(id); found != entries_.end()) {
      found->second.charged -= bytes;
      host_bytes_[id.host] -= bytes;
      total_bytes_ -= bytes;
    }
    return room;
  }
  return {};
}

void Store::update(const Record& record) {
  const std::lock_guard lock(mutex_);
  const auto found = entries_.find(record.id);
  if (found == entries_.end()) return;
  Entry& entry = found->second;
  const bool pinned = entry.record.pinned;  // the user's, not the receiver's
  entry.record = record;
  entry.record.pinned = pinned;
  if (!record.over()) return;
  // What it counts for is now what it holds.
  host_bytes_[record.id.host] += record.bytes - entry.charged;
  total_bytes_ += record.bytes - entry.charged;
  entry.charged = record.bytes;
}

Result<void> Store::save(const Record& record) {
  update(record);
  return write_record(record.id);
}

Result<void> Store::write_record(const DumpId& id) {
  const std::lock_guard one_at_a_time(saving_);
  const auto current = find(id);
  if (!current) return Error{Errc::removed, fmt::format("dump {} was removed", id.text())};
  const std::string text = record_text(*current);
  auto saved = back_end_->put(id, record_file, text);
  if (saved.code() != Errc::no_space) return saved;
  // The reserve is for this: what was received is not to be lost for want of its record.
  back_end_->free_reserve();
  saved = back_end_->put(id, record_file, text);
  back_end_->keep_reserve();
  return saved;
}

Result<Record> Store::amend(const DumpId& id, const std::function<void(Record&)>& change) {
  std::optional<Record> changed;
  {
    const std::lock_guard lock(mutex_);
    if (const auto found = entries_.find(id); found != entries_.end()) {
      change(found->second.record);
      changed = found->second.record;
    }
  }
  if (!changed) return Error{Errc::not_found, fmt::format("there is no dump {}", id.text())};
  if (auto saved = write_record(id); !saved) return saved.error();
  return std::move(*changed);
}

Result<void> Store::remove(const DumpId& id, bool even_pinned) {
  {
    const std::lock_guard lock(mutex_);
    const auto found = entries_.find(id);
    if (found == entries_.end())
      return Error{Errc::not_found, fmt::format("there is no dump {}", id.text())};
    const Entry& entry = found->second;
    if (!entry.record.over())
      return Error{Errc::busy, fmt::format("dump {} is being received", id.text())};
    if (entry.holds > 0) return Error{Errc::busy, fmt::format("dump {} is in use", id.text())};
    if (entry.record.pinned && !even_pinned)
      return Error{Errc::busy, fmt::format("dump {} is pinned: unpin it first", id.text())};
  }
  if (auto gone = back_end_->remove(id); !gone) return gone;
  const std::lock_guard lock(mutex_);
  if (const auto found = entries_.find(id); found != entries_.end()) {
    host_bytes_[id.host] -= found->second.charged;
    total_bytes_ -= found->second.charged;
    entries_.erase(found);
  }
  return {};
}

Result<Record> Store::pin(const DumpId& id, bool pinned) {
  return amend(id, [pinned](Record& record) { record.pinned = pinned; });
}

std::vector<Record> Store::list() const {
  std::vector<Record> all;
  {
    const std::lock_guard lock(mutex_);
    for (const auto& [id, entry] : entries_)
      all.push_back(entry.record);
  }
  std::stable_sort(all.begin(), all.end(),
                   [](const Record& a, const Record& b) { return a.started < b.started; });
  return all;
}

std::optional<Record> Store::find(const DumpId& id) const {
  const std::lock_guard lock(mutex_);
  const auto found = entries_.find(id);
  return found == entries_.end() ? std::nullopt : std::optional(found->second.record);
}

std::optional<Record> Store::find_session(std::string_view session) const {
  if (session.empty()) return std::nullopt;
  const std::lock_guard lock(mutex_);
  for (const auto& [id, entry] : entries_)
    if (entry.record.session == session) return entry.record;
  return std::nullopt;
}

Result<Record> Store::resolve(std::string_view word) const {
  std::string_view host = word;
  const bool latest = word.ends_with("/latest");
  if (latest) host.remove_suffix(7);
  const bool whole_host = latest || word.find('/') == std::string_view::npos;
  std::optional<Record> found;
  std::size_t matches = 0;
  for (const Record& record : list()) {
    if (whole_host ? record.id.host == host || record.hostname == host
                   : std::string_view(record.id.text()).starts_with(word)) {
      if (record.id.text() == word) return record;
      ++matches;
      found = record;  // the newest comes last
    }
  }
  if (!found) return Error{Errc::not_found, fmt::format("there is no dump {}", quoted(word))};
  if (!whole_host && matches > 1)
    return Error{Errc::invalid, fmt::format("{} begins the names of {} dumps: write more of it",
                                            quoted(word), matches)};
  return *found;
}

bool Store::is_newest_complete_locked(const Record& record) const {
  if (record.state != State::complete) return false;
  return std::none_of(entries_.begin(), entries_.end(), [&](const auto& other) {
    const Record& r = other.second.record;
    return r.id.host == record.id.host && r.state == State::complete && r.started > record.started;
  });
}

std::vector<DumpId> Store::doomed_locked(double now) const {
  std::vector<const Record*> eldest;
  for (const auto& [id, entry] : entries_)
    eldest.push_back(&entry.record);
  std::stable_sort(eldest.begin(), eldest.end(),
                   [](const Record* a, const Record* b) { return a->started < b->started; });
  std::map<std::string_view, std::size_t> count;
  for (const Record* r : eldest)
    ++count[r->id.host];
  std::uint64_t bytes = total_bytes_;
  const double age = std::chrono::duration<double>(retention_.age).count();
  std::vector<DumpId> doomed;
  for (const Record* r : eldest) {
    const Entry& entry = entries_.at(r->id);
    if (!r->over() || r->pinned || entry.holds > 0 || is_newest_complete_locked(*r)) continue;
    // A clock that jumped back makes nothing old.
    const bool old = age > 0 && now - r->finished > age;
    const bool many = retention_.count != 0 && count[r->id.host] > retention_.count;
    const bool large = retention_.bytes != 0 && bytes > retention_.bytes;
    if (!old && !many && !large) continue;
    --count[r->id.host];
    bytes -= entry.charged;
    doomed.push_back(r->id);
  }
  return doomed;
}

std::vector<DumpId> Store::retain() {
  std::vector<DumpId> doomed, gone;
  {
    const std::lock_guard lock(mutex_);
    doomed = doomed_locked(wall_time());
  }
  for (const DumpId& id : doomed) {
    if (auto removed = remove(id); !removed)
      log_warning(fmt::format("retention: {}", removed.error().message));
    else
      gone.push_back(id);
  }
  return gone;
}

void Store::hold(const DumpId& id) {
  const std::lock_guard lock(mutex_);
  if (const auto found = entries_.find(id); found != entries_.end()) ++found->second.holds;
}

void Store::let_go(const DumpId& id) {
  const std::lock_guard lock(mutex_);
  if (const auto found = entries_.find(id); found != entries_.end() && found->second.holds > 0)
    --found->second.holds;
}

Quota Store::quota() const {
  const std::lock_guard lock(mutex_);
  return quota_;
}

void Store::set_limits(Quota quota, Retention retention) {
  const std::lock_guard lock(mutex_);
  quota_ = quota;
  retention_ = retention;
}

std::uint64_t Store::total_bytes() const {
  const std::lock_guard lock(mutex_);
  return total_bytes_;
}

}  // namespace blockloom::dump
