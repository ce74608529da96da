#pragma once

#include <cstdint>
#include <map>
#include <mutex>
#include <string>

namespace blockloom {

/// Writes of plain legs that ended with end_unknown, by the storage (storage_name.hpp): they may
/// still land. It outlives the legs, since what they sent does. A leg adds before it ends the Io.
/// Legs under a mirror's control are not here: there a fence answers for them. Any thread.
class LateWrites {
 public:
  static LateWrites& get();

  void add(const std::string& storage) noexcept;
  /// There is a proof that none lands any more.
  void clear(const std::string& storage) noexcept;
  std::uint64_t count(const std::string& storage) const noexcept;

 private:
  mutable std::mutex mutex_;  // protects what follows; innermost
  std::map<std::string, std::uint64_t> counts_;
};

}  // namespace blockloom
