#pragma once

#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "server/io/io_client.hpp"
#include "server/target/mirror/region_log.hpp"

namespace blockloom::mirror {

/// Where the record lies: a leg (disk log), or nowhere (core log). One commit at a time, and
/// commits on one thread at a time.
class LogStore {
 public:
  /// `leg` null: a core log. `timeout` bounds each read and write; zero: none, and they run in the
  /// caller's thread where the leg does.
  static Result<std::unique_ptr<LogStore>> create(std::shared_ptr<Leg> leg, Duration timeout);

  bool durable() const noexcept { return leg_ != nullptr; }
  const std::shared_ptr<Leg>& leg() const noexcept { return leg_; }

  /// True: nothing was ever written there, so a new record may be made. Errors name the leg.
  Result<bool> blank();
  /// The mirror's uuid that the record carries; Errc::invalid if there is no record.
  Result<Uuid> peek();
  /// As RegionLog::load(). Errors name the leg.
  Result<RegionLog> load(const LogIdentity& expect);

  /// Writes the batches that `next` gives (it takes the mirror's lock for each) and flushes.
  /// False: it failed, and is to be asked for again.
  bool commit(const std::function<bool(std::vector<LogWrite>&)>& next);

 private:
  class Source;
  LogStore(std::shared_ptr<Leg> leg, Duration timeout);
  Result<void> read(std::uint64_t offset, std::span<std::byte> out);
  Errc write(std::uint64_t offset, std::span<const std::byte> bytes);
  Errc transfer(Op op, std::uint64_t offset, std::span<std::byte> bytes);
  Error named(const Error& error) const;

  const std::shared_ptr<Leg> leg_;
  const Duration timeout_;
  std::unique_ptr<IoClient> client_;
};

}  // namespace blockloom::mirror
