#include "server/dump/device_target.hpp"

#include <algorithm>
#include <cstring>
#include <mutex>
#include <utility>

#include <fmt/format.h>

namespace blockloom::dump {
namespace {

constexpr std::uint32_t queue_most = 32;

/// The writes under way. It lives until the last of them has ended for good, however long its
/// target has been gone.
class Flight : public std::enable_shared_from_this<Flight> {
 public:
  Flight(std::shared_ptr<Signal> signal, std::uint32_t writes)
      : signal_(std::move(signal)), writes_(writes), ops_(std::size_t{2} * writes) {
    for (Op& op : ops_)
      free_.push_back(&op);
  }

  struct Op {
    std::shared_ptr<Flight> hold;  // while the leg has it
    std::uint32_t write = 0, round = 0;
  };

  /// A write in so many pieces begins; its place.
  std::uint32_t begin(std::uint32_t tag, std::uint32_t pieces) {
    const std::lock_guard lock(mutex_);
    std::uint32_t place = 0;
    while (place + 1 < writes_.size() && writes_[place].left != 0)
      ++place;
    writes_[place] = {tag, pieces, Errc::ok};
    return place;
  }
  /// A piece goes to the leg; null: as many are under way as were set aside.
  Op* take(std::uint32_t write) {
    const std::lock_guard lock(mutex_);
    if (free_.empty()) return nullptr;
    Op* op = free_.back();
    free_.pop_back();
    op->hold = shared_from_this();
    op->write = write;
    op->round = round_;
    return op;
  }
  void give_back(Op& op) {
    const std::shared_ptr<Flight> hold = std::move(op.hold);
    const std::lock_guard lock(mutex_);
    free_.push_back(&op);
  }
  void ended(const Op& op, Errc status) {
    {
      const std::lock_guard lock(mutex_);
      if (op.round != round_) return;  // abandoned
      Write& write = writes_[op.write];
      if (write.status == Errc::ok) write.status = status;
      if (--write.left == 0) done_.push_back({write.tag, write.status});
    }
    signal_->raise();
  }
  std::size_t completions(std::span<DumpCompletion> into) {
    const std::lock_guard lock(mutex_);
    const std::size_t n = std::min(into.size(), done_.size());
    std::copy_n(done_.begin(), n, into.begin());
    done_.erase(done_.begin(), done_.begin() + static_cast<std::ptrdiff_t>(n));
    return n;
  }
  void abandon() {
    const std::lock_guard lock(mutex_);
    ++round_;
    done_.clear();
    for (Write& write : writes_)
      write.left = 0;
  }

  static void notify(const IoNotice& notice, void* context) noexcept {
    Op& op = *static_cast<Op*>(context);
    const std::shared_ptr<Flight> flight = op.hold;
    if (!notice.second)
      flight->ended(op, notice.state == RegionState::ok        ? Errc::ok
                        : notice.state == RegionState::timeout ? Errc::timed_out
                        : notice.status == Errc::ok            ? Errc::io
                                                               : notice.status);
    if (notice.final) flight->give_back(op);
  }

 private:
  struct Write {
    std::uint32_t tag = 0, left = 0;
    Errc status = Errc::ok;
  };
  const std::shared_ptr<Signal> signal_;
  std::mutex mutex_;  // protects what follows
  std::vector<Write> writes_;
  std::vector<Op> ops_;
  std::vector<Op*> free_;
  std::vector<DumpCompletion> done_;
  std::uint32_t round_ = 0;
};

class DeviceTarget final : public DumpTarget {
 public:
  DeviceTarget(DeviceStore& store, const DumpId& id, bool resume)
      : store_(store), id_(id), resume_(resume) {}
  ~DeviceTarget() override { unconfigure(); }

  std::string name() const override { return fmt::format("{} {}", store_.name(), id_.text()); }

  Result<void> configure(const DumpPlan& plan) override {
    auto there = store_.find(id_);
    if (!there) return Error{Errc::not_found, fmt::format("{}: there is no such dump", name())};
    if (!resume_ && !there->image.empty())
      return Error{Errc::exists, fmt::format("{}: it has an image", name())};
    limits_.alignment = store_block;
    limits_.largest = DeviceIo::piece;
    limits_.queue = std::clamp(plan.queue, 1u, queue_most);
    flight_ = std::make_shared<Flight>(store_.io().signal(), limits_.queue);
    runs_ = std::move(there->image);
    // What an earlier server was told of and is here: behind it nothing is known.
    defined_ = resume_ ? std::min(round_up(plan.here, store_block), bytes_in(runs_)) : 0;
    safe_ = defined_;
    return reserve(std::max(plan.expected, std::uint64_t{1}));
  }

  DumpLimits query() const noexcept override { return limits_; }

  Result<void> ready() override {
    std::vector<std::byte> block(store_block);
    return store_.io().read(runs_.front().begin * store_block, block);
  }

  Result<void> reserve(std::uint64_t end) override {
    if (end <= bytes_in(runs_)) return {};
    auto runs = store_.grow_image(id_, end);
    if (!runs) return runs.error();
    runs_ = std::move(*runs);
    return {};
  }

  Result<void> start(std::span<const DumpWrite> batch) noexcept override {
    std::uint64_t end = defined_;
    for (const DumpWrite& write : batch)
      end = std::max(end, write.offset + write.bytes.size());
    if (auto room = reserve(end); !room) return room;
    if (end > defined_)
      if (auto zeros = fill_gaps(batch); !zeros) return zeros;
    for (const DumpWrite& write : batch) {
      std::uint32_t pieces = 0;
      const auto count = [&](std::uint64_t, std::uint64_t, std::uint64_t) { ++pieces; };
      for_pieces(runs_, write.offset, write.bytes.size(), count);
      const std::uint32_t place = flight_->begin(write.tag, pieces);
      for_pieces(runs_, write.offset, write.bytes.size(),
                 [&](std::uint64_t where, std::uint64_t before, std::uint64_t n) {
                   waiting_.push_back({where, write.bytes.subspan(before, n), place});
                 });
    }
    out_ += batch.size();
    push();
    return {};
  }

  std::size_t poll(std::span<DumpCompletion> done, TimePoint deadline) noexcept override {
    for (;;) {
      const std::uint64_t seen = store_.io().signal()->seen();
      push();
      if (const std::size_t n = flight_->completions(done); n > 0) return took(done.first(n));
      if (Clock::now() >= deadline) return 0;
      store_.io().signal()->wait(seen, deadline);
    }
  }

  void abandon() noexcept override {
    waiting_.clear();
    flight_->abandon();
  }

  Result<void> sync(TimePoint) override {
    if (auto flushed = store_.io().flush(); !flushed) return flushed;
    store_.set_defined(id_, defined_);
    return {};
  }

  Result<std::size_t> read(std::uint64_t offset, std::span<std::byte> into) override {
    return read_runs(store_.io(), runs_, defined_, offset, into);
  }

  Result<void> finish(std::uint64_t length, TimePoint) override {
    const std::uint64_t end = round_up(length, store_block);
    if (auto room = reserve(end); !room) return room;
    if (end > defined_)
      if (auto zeros = zero(defined_, end); !zeros) return zeros;
    if (auto flushed = store_.io().flush(); !flushed) return flushed;
    auto finished = store_.finish_image(id_, length);
    finished_ = bool(finished);
    if (auto now = store_.find(id_)) runs_ = std::move(now->image);
    return finished;
  }

  void release() noexcept override {
    if (!finished_) store_.leave_image(id_, safe_);
  }

  void unconfigure() noexcept override {
    if (flight_) abandon();
  }

 private:
  struct Waiting {
    std::uint64_t where = 0;
    ByteView bytes;
    std::uint32_t write = 0;
  };

  std::size_t took(std::span<const DumpCompletion> done) noexcept {
    for (const DumpCompletion& completion : done)
      failed_ = failed_ || completion.status != Errc::ok;
    out_ -= std::min(out_, done.size());
    if (out_ == 0 && !failed_) safe_ = defined_;
    return done.size();
  }

  /// What the batch leaps over holds an old dump's bytes. Zeros are there before the writes, which
  /// may fill it in part.
  Result<void> fill_gaps(std::span<const DumpWrite> batch) {
    order_.assign(batch.begin(), batch.end());
    std::sort(order_.begin(), order_.end(),
              [](const DumpWrite& a, const DumpWrite& b) { return a.offset < b.offset; });
    for (const DumpWrite& write : order_) {
      if (write.offset > defined_)
        if (auto zeros = zero(defined_, write.offset); !zeros) return zeros;
      defined_ = std::max(defined_, write.offset + write.bytes.size());
    }
    return {};
  }

  Result<void> zero(std::uint64_t begin, std::uint64_t end) {
    Result<void> done;
    for_pieces(runs_, begin, end - begin, [&](std::uint64_t where, std::uint64_t, std::uint64_t n) {
      if (done) done = store_.io().zero(where, n);
    });
    return done;
  }

  /// Hands as much to the leg as there are buffers for.
  void push() noexcept {
    std::size_t sent = 0;
    for (; sent < waiting_.size(); ++sent) {
      const Waiting& next = waiting_[sent];
      IoBufferRef buffer = store_.io().client().buffers().acquire(Bytes(next.bytes.size()));
      Flight::Op* const op = buffer ? flight_->take(next.write) : nullptr;
      if (op == nullptr) break;
      std::memcpy(buffer.data(), next.bytes.data(), next.bytes.size());
      IoRegion region;
      region.offset = Bytes(next.where);
      region.length = Bytes(next.bytes.size());
      region.deadline = store_.io().deadline();
      IoRequest request;
      request.op = blockloom::Op::write;
      request.cancel_on_timeout = true;
      request.regions = {&region, 1};
      request.buffer = std::move(buffer);
      request.notify = Flight::notify;
      request.context = op;
      IoResults results;
      if (store_.io().client().submit(request, results) == Submit::pending) continue;
      IoNotice notice;
      notice.state = results.states[0];
      notice.status = results.status[0];
      Flight::notify(notice, op);
    }
    waiting_.erase(waiting_.begin(), waiting_.begin() + static_cast<std::ptrdiff_t>(sent));
  }

  DeviceStore& store_;
  const DumpId id_;
  const bool resume_;
  DumpLimits limits_;
  std::shared_ptr<Flight> flight_;
  std::vector<BlockRun> runs_;
  std::uint64_t defined_ = 0;  // written, or zeros; what is behind it is an old dump's
  std::uint64_t safe_ = 0;     // of that, what all its writes have reached
  std::size_t out_ = 0;        // writes that were started and not polled
  bool failed_ = false, finished_ = false;
  std::vector<Waiting> waiting_;  // for buffers; in order
  std::vector<DumpWrite> order_;
};

}  // namespace

std::unique_ptr<DumpTarget> make_device_target(DeviceStore& store, const DumpId& id, bool resume) {
  return std::make_unique<DeviceTarget>(store, id, resume);
}

}  // namespace blockloom::dump
