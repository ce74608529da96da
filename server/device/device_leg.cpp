#include "server/device/device_leg.hpp"

#include <new>

namespace blockloom {

/// The Io of the device above, as a request to the device below.
struct DeviceLeg::Nested {
  Request request;
  Io* io = nullptr;
  DeviceLeg* leg = nullptr;
};

DeviceLeg::DeviceLeg(std::shared_ptr<Device> device, Bytes size, TimerQueue& worker,
                     std::function<void(const std::shared_ptr<Device>&)> closed)
    : Leg({}),
      device_(std::move(device)),
      size_(size),
      worker_(worker),
      closed_(std::move(closed)) {}

DeviceLeg::~DeviceLeg() {
  closed_(device_);
}

Submit DeviceLeg::do_submit(Io& io) noexcept {
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
  request.complete = [](Request& r) noexcept {
    auto* n = static_cast<Nested*>(r.owner);
    Io& outer = *n->io;
    const Errc status = r.status;
    delete n;
    finish(outer, status);
  };
  request.retry = [](Request& r) noexcept {
    auto* n = static_cast<Nested*>(r.owner);
    n->leg->resubmit(*n);
  };
  if (device_->submit(request) == Submit::pending) return Submit::pending;
  const Errc status = request.status;
  delete nested;
  return io.finish_inline(status);
}

void DeviceLeg::resubmit(Nested& nested) noexcept {
  // The resuming thread only hands it on; what carries it may wait for a disk.
  Request* request = &nested.request;
  worker_.schedule(Clock::now(), [this, request](Errc) {
    // When the engine stops, the device below answers with that at once.
    if (device_->submit(*request) == Submit::done) request->complete(*request);
  });
}

}  // namespace blockloom
