#include "server/daemon/dump_exports.hpp"

#include <array>
#include <cerrno>

#include <fmt/format.h>
#include <sys/mman.h>
#include <unistd.h>

#include "server/dump/image_leg.hpp"
#include "server/target/table_line.hpp"

namespace blockloom {
namespace {

/// The bytes after the last whole sector, and zeros, in a file without a name.
Result<int> tail_file(std::span<const std::byte> bytes) {
  std::array<std::byte, sector_size> sector{};
  std::copy(bytes.begin(), bytes.end(), sector.begin());
  const int fd = ::memfd_create("dump-tail", MFD_CLOEXEC);
  if (fd < 0) return system_error("dump export", errno);
  if (::pwrite(fd, sector.data(), sector.size(), 0) == static_cast<ssize_t>(sector.size()))
    return fd;
  const int reason = errno;
  ::close(fd);
  return system_error("dump export", reason);
}

}  // namespace

DumpExports::DumpExports(dump::Service& service) : service_(service) {
  devices_.set_outside(this);
  listener_ = devices_.events().listen([this](const Event& event) {
    if (event.kind != "removed") return;
    const std::lock_guard lock(mutex_);
    const auto found = held_.find(event.device);
    if (found == held_.end()) return;
    service_.store().let_go(found->second);
    held_.erase(found);
  });
}

DumpExports::~DumpExports() {
  devices_.events().unlisten(listener_);
  devices_.shut_down();
}

Result<std::string> DumpExports::table_of(const dump::Record& record,
                                          std::vector<int>& tails) const {
  dump::BackEnd& back_end = service_.store().back_end();
  auto runs = back_end.runs(record.id, record.image, record.bytes);
  if (!runs) return runs.error();
  if (runs->empty() || !runs->front().uri.starts_with('/'))
    return fmt::format("0 {} linear dev:{} 0\n", round_up(record.length, sector_size) / sector_size,
                       record.id.text());
  // What a device serves are whole sectors; of the last run the rest comes from memory.
  std::string table;
  std::uint64_t at = 0;
  for (const dump::DumpRun& run : *runs) {
    const std::uint64_t sectors = run.length / sector_size;
    if (sectors > 0)
      table += fmt::format("{} {} linear {} {}\n", at, sectors, escape_word(run.uri),
                           run.offset / sector_size);
    at += sectors;
  }
  const std::size_t rest = record.length % sector_size;
  if (rest == 0) return table;
  auto reader = back_end.open_image(record.id, record.image);
  if (!reader) return reader.error();
  std::array<std::byte, sector_size> bytes;
  auto got = (*reader)->read(record.length - rest, std::span(bytes).first(rest));
  if (!got) return got.error();
  auto tail = tail_file(std::span(bytes).first(*got));
  if (!tail) return tail.error();
  tails.push_back(*tail);
  return table + fmt::format("{} 1 linear /proc/self/fd/{} 0\n", at, *tail);
}

Result<std::shared_ptr<Leg>> DumpExports::open_device(std::string_view name, bool) {
  auto record = service_.store().resolve(name);
  if (!record) return record.error();
  return dump::make_image_leg(record->id.text(), record->length,
                              [this, id = record->id, image = record->image] {
                                return service_.store().back_end().open_image(id, image);
                              });
}

Result<DeviceHandle> DumpExports::open(std::string_view dump) {
  auto record = service_.store().resolve(dump);
  if (!record) return record.error();
  if (!record->over() || record->state == dump::State::incomplete || record->length == 0)
    return Error{Errc::busy, fmt::format("dump {} is {}: only whole ones are exported",
                                         record->id.text(), state_text(*record))};
  service_.store().hold(record->id);
  std::vector<int> tails;
  DeviceSpec spec;
  spec.read_only = true;
  spec.description = record->panic.substr(0, 256);
  auto table = table_of(*record, tails);
  Result<void> made;
  if (table) {
    spec.table = std::move(*table);
    const std::lock_guard lock(mutex_);
    spec.name = fmt::format("dump{}", next_++);
    held_[spec.name] = record->id;
  } else {
    made = table.error();
  }
  // The registry tells its listener, which takes the lock.
  if (made) made = devices_.create(spec);
  for (const int fd : tails)
    ::close(fd);
  if (!made) {
    const std::lock_guard lock(mutex_);
    if (spec.name.empty() || held_.erase(spec.name) > 0) service_.store().let_go(record->id);
    return made.error();
  }
  auto handle = devices_.open(spec.name);
  RemoveOptions when_closed;
  when_closed.deferred = true;
  if (auto removed = devices_.remove(spec.name, when_closed); !removed && handle)
    return removed.error();
  return handle;
}

std::vector<DumpExports::Export> DumpExports::list() const {
  std::vector<Export> all;
  for (const dump::Record& record : service_.store().list())
    if (record.over() && record.state != dump::State::incomplete && record.length > 0)
      all.push_back({"dump/" + record.id.text(), record.panic.substr(0, 256)});
  return all;
}

}  // namespace blockloom
