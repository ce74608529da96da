#pragma once

#include <atomic>
#include <functional>
#include <map>
#include <memory>
#include <mutex>
#include <string_view>

#include "server/dump/options.hpp"
#include "server/dump/record.hpp"
#include "server/dump/store.hpp"
#include "server/dump/workers.hpp"

namespace blockloom::dump {

/// What follows a dump's beginning and end, on threads of its own ("bl-dump-after-N"): events,
/// hooks, digests, texts, retention. Any thread; start(), hurry() and stop() are the owner's.
class Afterwards {
 public:
  using Notify = std::function<void(std::string_view kind, const Record& record)>;

  Afterwards(const Options& options, Store& store, Notify notify);
  void start() { workers_.start(); }
  void hurry() noexcept { stopping_ = true; }  ///< long digests are cut short
  void stop() { workers_.stop(); }
  bool stopping() const noexcept { return stopping_.load(); }

  void began(const Record& record);
  void ended(const Record& record);
  void no_space(const Record& record);
  void removed(const Record& record) { tell("dump_removed", record); }
  void retain();

 private:
  void after(const DumpId& id, std::function<void()> job);
  void look_at(const DumpId& id);
  void retain_now();
  void tell(std::string_view kind, const Record& record);

  const Options& options_;
  Store& store_;
  const Notify notify_;
  std::atomic<bool> stopping_{false};
  std::mutex mutex_;  // protects what follows
  std::map<DumpId, std::shared_ptr<Workers::Strand>> strands_;
  Workers workers_;
};

}  // namespace blockloom::dump
