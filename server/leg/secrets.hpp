#pragma once

namespace blockloom {

/// While one lives, Leg::uri() of the thread that made it shows passwords, so that a saved table
/// can be loaded again. Only for what goes into the state file (mode 0600).
class RevealSecrets {
 public:
  RevealSecrets() noexcept { ++depth_; }
  ~RevealSecrets() { --depth_; }
  RevealSecrets(const RevealSecrets&) = delete;
  RevealSecrets& operator=(const RevealSecrets&) = delete;

  static bool active() noexcept { return depth_ > 0; }

 private:
  static inline thread_local int depth_ = 0;
};

}  // namespace blockloom
