#include "server/dump/bypass_leg.hpp"

#include <algorithm>
#include <new>
#include <utility>

#include "server/base/timer_queue.hpp"

namespace blockloom::dump {
namespace {

class BypassLeg final : public Leg {
 public:
  explicit BypassLeg(std::shared_ptr<Device> device) : Leg({}), device_(std::move(device)) {}

  std::string uri() const override { return "dev:" + device_->name(); }
  std::string device_name() const override { return device_->name(); }
  Bytes size() const noexcept override { return device_->size(); }
  bool read_only() const noexcept override { return device_->read_only(); }

 private:
  struct Nested {
    Request request;
    Io* io = nullptr;
    BypassLeg* leg = nullptr;
    std::shared_ptr<Table> table;  // which the request is in, past the device's gate
  };

  Submit do_submit(Io& io) noexcept override {
    auto* nested = new (std::nothrow) Nested;
    if (nested == nullptr) return io.finish_inline(Errc::no_memory);
    nested->io = &io;
    nested->leg = this;
    Request& request = nested->request;
    request.op = io.op;
    request.flags = io.flags;
    request.offset = io.offset;
    request.length = io.length;
    request.data = io.data;
    request.extents = io.extents;
    request.owner = nested;
    request.complete = ended;
    request.retry = again;
    if (send(*nested) == Submit::pending) return Submit::pending;
    const Errc status = request.status;
    delete nested;
    return io.finish_inline(status);
  }

  Submit send(Nested& nested) noexcept {
    Request& request = nested.request;
    std::shared_ptr<Table> table = device_->live_table();
    const Errc dead = device_->dead();
    if (table == nullptr || dead != Errc::ok)
      return request.status = dead != Errc::ok ? dead : Errc::io, Submit::done;
    if (keeps_books(*table)) return device_->submit(request);
    if (request.op != Op::flush &&
        (request.length > table->size() || request.offset > table->size() - request.length))
      return request.status = Errc::out_of_range, Submit::done;
    request.shard = static_cast<std::uint8_t>(this_thread_shard());
    request.table_ended = ended;
    request.status = Errc::ok;
    nested.table = std::move(table);
    return nested.table->submit(request);
  }

  static bool keeps_books(const Table& table) noexcept {
    return std::any_of(table.segments().begin(), table.segments().end(),
                       [](const Table::Segment& s) { return s.target->watches_legs(); });
  }

  static void ended(Request& request) noexcept {
    auto* nested = static_cast<Nested*>(request.owner);
    Io& io = *nested->io;
    const Errc status = request.status;
    delete nested;
    finish(io, status);
  }

  /// The device was resumed; on the thread that did it, which only hands this on.
  static void again(Request& request) noexcept {
    auto* nested = static_cast<Nested*>(request.owner);
    try {
      nested->leg->retries_.schedule(Clock::now(), [nested](Errc) {
        if (nested->leg->send(*nested) == Submit::done) ended(nested->request);
      });
    } catch (...) {  // no memory, or no thread
      request.status = Errc::no_memory;
      ended(request);
    }
  }

  const std::shared_ptr<Device> device_;
  TimerQueue retries_{"bl-dump-retry"};
};

}  // namespace

std::shared_ptr<Leg> make_bypass_leg(std::shared_ptr<Device> device) {
  return std::make_shared<BypassLeg>(std::move(device));
}

}  // namespace blockloom::dump
