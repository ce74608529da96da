#pragma once

#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <string_view>

#include "proto/control/message.hpp"
#include "server/control/server.hpp"
#include "server/control/verb.hpp"
#include "server/control/verb_pool.hpp"
#include "server/control/watcher.hpp"

namespace blockloom::control {

/// From a text to its answer: parses, finds the verb, checks the parameters, runs it where it
/// belongs, and puts a batch's answers together. Knows no sockets. All members are called on one
/// thread, the control thread, but for close(), wait_idle() and join(), which are the owner's.
class Dispatcher {
 public:
  using Task = std::function<void()>;
  /// Runs a task later on the control thread; any thread may call it.
  using Post = std::function<void(Task)>;
  /// The answer to a text, without its line's end; nothing if only notifications were sent.
  using Done = std::function<void(std::optional<std::string>)>;
  using Notify = std::function<void(std::string)>;

  Dispatcher(Registry& registry, const Options& options, Post post);

  void start();

  /// How many requests a text holds is known before the first of them runs: `begin` is told.
  /// `done` runs once, perhaps before this returns.
  void receive(Watcher::Owner owner, std::string_view text,
               const std::function<void(std::size_t)>& begin, Done done, Notify notify);

  Watcher& watcher() noexcept { return watcher_; }

  /// From now on every verb is refused with Errc::shutdown.
  void refuse() noexcept { refusing_ = true; }
  void close();  ///< of the pools; see VerbPool
  bool wait_idle(TimePoint deadline);
  void join();

 private:
  struct Exchange;

  void dispatch(const std::shared_ptr<Exchange>& exchange, std::size_t index, rpc::Request request,
                Watcher::Owner owner, const Notify& notify);
  void watch(const Verb& verb, const std::shared_ptr<Exchange>& exchange, std::size_t index,
             const rpc::Request& request, Watcher::Owner owner, const Notify& notify);
  std::string run(const Verb& verb, const rpc::Request& request);
  std::string answer(const rpc::Value& id, Result<rpc::Value> result) const;

  const Options& options_;
  VerbContext context_;
  const Post post_;
  Watcher watcher_;
  VerbPool changes_;
  VerbPool queries_;
  bool refusing_ = false;
};

}  // namespace blockloom::control
