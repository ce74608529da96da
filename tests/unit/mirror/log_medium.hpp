#pragma once

#include <cstring>
#include <vector>

#include "server/target/mirror/region_log.hpp"

namespace blockloom::mirror::test {

/// The medium of a log in memory.
class Medium : public LogSource {
 public:
  explicit Medium(std::uint64_t regions) : bytes(RegionLog::bytes_needed(regions)) {}

  Result<void> read(std::uint64_t offset, std::span<std::byte> out) override {
    if (offset + out.size() > bytes.size()) return Error{Errc::io, "past the end"};
    std::memcpy(out.data(), bytes.data() + offset, out.size());
    return {};
  }
  void write(const LogWrite& w) {
    std::memcpy(bytes.data() + w.offset, w.bytes.data(), w.bytes.size());
  }
  /// One whole commit; the number of writes.
  std::size_t commit(RegionLog& log) {
    std::size_t n = 0;
    std::vector<LogWrite> batch;
    log.begin_commit();
    while (log.next_batch(batch)) {
      for (const LogWrite& w : batch)
        write(w);
      n += batch.size();
    }
    log.end_commit(true);
    return n;
  }

  std::vector<std::byte> bytes;
};

inline LogIdentity identity_of(std::uint64_t regions, unsigned legs = 2,
                               std::uint64_t region_size = 1 << 20) {
  LogIdentity identity;
  identity.size = regions * region_size;
  identity.region_size = region_size;
  identity.mirror = {1, 2, 3, 4};
  for (unsigned i = 0; i < legs; ++i) {
    identity.roles[i] = Role::member;
    identity.legs[i] = {static_cast<std::uint8_t>(10 + i)};
  }
  return identity;
}

}  // namespace blockloom::mirror::test
