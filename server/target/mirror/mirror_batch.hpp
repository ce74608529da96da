#pragma once

#include <memory>
#include <vector>

#include "server/target/mirror/mirror.hpp"

/// Private to the mirror's own sources.
namespace blockloom::mirror {

/// The actions of one or more visits to the machine on their way, and what comes of them: kept by
/// the thread, so that the steady path allocates nothing.
struct Mirror::Batch {
  struct Answer {
    Io* io = nullptr;
    Errc errc = Errc::ok;
    IoBufferRef data;  // a read's, to be copied
    std::unique_ptr<Extents> extents;
  };
  struct Ended {
    Event event;
    LegMask legs = 0;  // whose ops it ends
  };

  Actions actions;
  std::vector<Ended> ended;
  std::vector<OpId> ok;  // ended inside the call
  std::vector<Answer> answers;
  std::vector<IoBufferRef> trash;  // dropped outside the lock
  const Io* own = nullptr;         // the request whose map() runs on this thread
  Errc own_status = Errc::ok;
  bool own_ended = false;
  bool may_block = false;  // on a client's thread, or the worker's
  bool unpark = false;     // a slot came free, and somebody waits for one

  void clear() noexcept {
    actions.clear();
    ended.clear();
    ok.clear();
    answers.clear();
    trash.clear();
    own = nullptr;
    own_ended = false;
    unpark = false;
  }
};

/// A batch of the calling thread's for the time of one call. Calls nest: a leg may be a device that
/// is a mirror.
class Mirror::BatchHold {
 public:
  BatchHold() {
    auto& pool = batches();
    if (depth() == pool.size()) pool.push_back(std::make_unique<Batch>());
    batch_ = pool[depth()++].get();
    batch_->clear();
  }
  ~BatchHold() { --depth(); }
  BatchHold(const BatchHold&) = delete;
  BatchHold& operator=(const BatchHold&) = delete;
  Batch& operator*() const noexcept { return *batch_; }
  Batch* operator->() const noexcept { return batch_; }

 private:
  static std::vector<std::unique_ptr<Batch>>& batches() {
    static thread_local std::vector<std::unique_ptr<Batch>> pool;
    return pool;
  }
  static std::size_t& depth() {
    static thread_local std::size_t depth = 0;
    return depth;
  }
  Batch* batch_;
};

/// Hears of a leg's link.
class Mirror::Link final : public LinkListener {
 public:
  Link(Mirror& mirror, unsigned place) : mirror_(mirror), place_(place) {}
  void link_lost(RemoteLeg& leg, const Error& reason) noexcept override;
  void link_up(RemoteLeg&, std::uint64_t) noexcept override {}

 private:
  Mirror& mirror_;
  const unsigned place_;
};

}  // namespace blockloom::mirror
