#pragma once

#include <cstdint>

/// Where the machine obeys a rule it asks whether that rule was removed. In what ships the answer
/// is the constant `no`, and the question costs nothing. tests/sim builds the same sources with
/// BLOCKLOOM_RULE_REMOVAL, takes one rule away at a time, and must notice.
namespace blockloom::mirror {

enum class Rule : std::uint8_t {
  none,
  w1,       ///< no interval lock
  w3,       ///< sends before `dirty` is durable
  w4,       ///< a leg left out of a write is not STALE
  w5,       ///< a timeout does not make STALE
  w5_last,  ///< it does, on the last INSYNC leg as well
  w6,       ///< answers before STALE is durable
  r1,       ///< reads from STALE legs
  r2,       ///< reads across a write in flight
  r3,       ///< answers a read while STALE is not durable
  z1,       ///< a leg with zombies stays in service, and its regions are copied
  s1,       ///< a lost session does not make unflushed regions STALE
  s2,       ///< a new session without a fence's proof
  c2,       ///< copies without the interval lock
  c3,       ///< forgets a copy write that timed out
  c4,       ///< clears STALE before the copy was flushed
  h9,       ///< writes during a region's resync go past the leg that is being copied to
  f1,       ///< clears `dirty` without a flush
  f2,       ///< flushes one leg only
  b1,       ///< a restart without fences
  b2,       ///< a restart that does not choose one source
  b3,       ///< a restart without the leg that holds the newest data
};

#ifdef BLOCKLOOM_RULE_REMOVAL
extern Rule removed_rule;
inline bool removed(Rule rule) noexcept {
  return rule == removed_rule;
}
#else
constexpr bool removed(Rule) noexcept {
  return false;
}
#endif

}  // namespace blockloom::mirror
