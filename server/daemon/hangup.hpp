#pragma once

#include <csignal>
#include <functional>
#include <memory>
#include <thread>

#include "server/base/error.hpp"

namespace blockloom {

/// Takes SIGHUP over from whoever handles it (nbdkit would quit) for as long as this lives: each
/// one runs the callback on a thread of its own; those that come while it runs are one. Only one
/// may exist at a time.
///
/// A handler, not a blocked signal: nbdkit's threads have SIGHUP open, and it may land on any.
class HangupWatch {
 public:
  static Result<std::unique_ptr<HangupWatch>> start(std::function<void()> callback);
  ~HangupWatch();  ///< waits for a callback that runs
  HangupWatch(const HangupWatch&) = delete;
  HangupWatch& operator=(const HangupWatch&) = delete;

 private:
  explicit HangupWatch(std::function<void()> callback);
  void run();

  const std::function<void()> callback_;
  struct sigaction previous_ {};
  std::thread thread_;
};

}  // namespace blockloom
