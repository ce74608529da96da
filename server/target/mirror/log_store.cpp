#include "server/target/mirror/log_store.hpp"

#include <algorithm>
#include <cstring>

#include <fmt/format.h>

#include "server/target/mirror/region_log_storage.hpp"

namespace blockloom::mirror {
namespace {

constexpr std::size_t row_size = 4 * log_page_size;  // two generations of two copies
constexpr Bytes largest_transfer(64 << 10);
constexpr std::size_t uuid_at = 8;

}  // namespace

class LogStore::Source final : public LogSource {
 public:
  explicit Source(LogStore& store) : store_(store) {}
  Result<void> read(std::uint64_t offset, std::span<std::byte> out) override {
    return store_.read(offset, out);
  }

 private:
  LogStore& store_;
};

LogStore::LogStore(std::shared_ptr<Leg> leg, Duration timeout)
    : leg_(std::move(leg)), timeout_(timeout) {}

Result<std::unique_ptr<LogStore>> LogStore::create(std::shared_ptr<Leg> leg, Duration timeout) {
  std::unique_ptr<LogStore> store(new LogStore(std::move(leg), timeout));
  if (!store->durable()) return store;
  IoClient::Options options;
  options.name = "bl-log";
  options.requests = 1;
  options.buffers = {.largest = largest_transfer,
                     .reserve = 1,
                     .limit = Bytes(1 << 20),
                     .idle_limit = Bytes(64 << 10)};
  auto client = IoClient::create(options);
  if (!client) return client.error();
  store->client_ = std::move(*client);
  const bool remote = store->leg_->remote() != nullptr;
  store->client_->set_leg(0, store->leg_,
                          {.lane = timeout > Duration::zero() && !remote, .lane_threads = 1});
  return store;
}

Error LogStore::named(const Error& error) const {
  return {error.code, fmt::format("log '{}': {}", leg_->uri(), error.message)};
}

Errc LogStore::transfer(Op op, std::uint64_t offset, std::span<std::byte> bytes) {
  const bool bounded = timeout_ > Duration::zero();
  const IoRegion region{0, Bytes(offset), Bytes(bytes.size()),
                        bounded ? Clock::now() + timeout_ : TimePoint::max()};
  IoRequest request;
  request.op = op;
  request.cancel_on_timeout = true;
  request.shard = static_cast<std::uint8_t>(this_thread_shard());
  request.regions = {&region, 1};
  if (!bytes.empty() && bounded) {
    request.buffer = client_->buffers().acquire(Bytes(bytes.size()));
    if (!request.buffer) return Errc::no_memory;
    if (op == Op::write) std::memcpy(request.buffer.data(), bytes.data(), bytes.size());
  } else {
    request.data = bytes.data();
  }
  if (bounded)
    if (auto started = client_->start(); !started) return started.error().code;
  const IoResults results = client_->run(request);
  if (results.states[0] == RegionState::ok && op == Op::read && request.buffer)
    std::memcpy(bytes.data(), request.buffer.data(), bytes.size());
  return results.status[0];
}

Result<void> LogStore::read(std::uint64_t offset, std::span<std::byte> out) {
  if (offset + out.size() > leg_->size().value)
    return Error{Errc::invalid, fmt::format("the log ends at byte {}, and its record goes on to {}",
                                            leg_->size().value, offset + out.size())};
  for (std::size_t done = 0; done < out.size();) {
    const std::size_t n = std::min<std::size_t>(largest_transfer.value, out.size() - done);
    if (const Errc e = transfer(Op::read, offset + done, out.subspan(done, n)); e != Errc::ok)
      return Error{
          e, fmt::format("the log cannot be read at byte {}: {}", offset + done, to_string(e))};
    done += n;
  }
  return {};
}

Errc LogStore::write(std::uint64_t offset, std::span<const std::byte> bytes) {
  if (offset + bytes.size() > leg_->size().value) return Errc::no_space;
  for (std::size_t done = 0; done < bytes.size();) {
    const std::size_t n = std::min<std::size_t>(largest_transfer.value, bytes.size() - done);
    // The leg only reads it.
    const std::span<std::byte> part(const_cast<std::byte*>(bytes.data()) + done, n);
    if (const Errc e = transfer(Op::write, offset + done, part); e != Errc::ok) return e;
    done += n;
  }
  return Errc::ok;
}

Result<bool> LogStore::blank() {
  std::vector<std::byte> row(row_size);
  if (leg_->size().value < row_size) return true;  // too small is found out when it is made
  if (auto r = read(0, row); !r) return named(r.error());
  return std::all_of(row.begin(), row.end(), [](std::byte b) { return b == std::byte{}; });
}

Result<Uuid> LogStore::peek() {
  std::vector<std::byte> row(row_size);
  if (auto r = read(0, row); !r) return named(r.error());
  for (std::size_t at = 0; at < row.size(); at += log_page_size) {
    if (std::memcmp(row.data() + at, log_page_magic, sizeof log_page_magic) != 0) continue;
    Uuid uuid;
    std::memcpy(uuid.data(), row.data() + at + uuid_at, uuid.size());
    return uuid;
  }
  return named({Errc::invalid,
                "it holds something else than a mirror's log: expected an empty file, or the log "
                "of this mirror"});
}

Result<RegionLog> LogStore::load(const LogIdentity& expect) {
  Source source(*this);
  auto log = RegionLog::load(source, expect);
  if (!log) return named(log.error());
  return log;
}

bool LogStore::commit(const std::function<bool(std::vector<LogWrite>&)>& next) {
  // A late write of an earlier commit would land over a newer one: it ends first.
  if (durable() && client_->late(0) > 0) return false;
  std::vector<LogWrite> writes;
  while (next(writes)) {
    if (!durable()) continue;
    for (const LogWrite& w : writes)
      if (write(w.offset, w.bytes) != Errc::ok) return false;
  }
  return !durable() || transfer(Op::flush, 0, {}) == Errc::ok;
}

}  // namespace blockloom::mirror
