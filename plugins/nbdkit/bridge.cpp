#include "plugins/nbdkit/bridge.hpp"

#include "server/leg/waiting_caller.hpp"

namespace blockloom::nbd {
namespace {

enum News { ended = 1, retry = 2 };

}  // namespace

Errc run(Device& device, Request& request) noexcept {
  for (;;) {
    // Until its request comes back this thread has nothing to do, and may read a leg's socket.
    WaitingCaller caller;
    request.owner = &caller;
    request.complete = [](Request& r) noexcept {
      static_cast<WaitingCaller*>(r.owner)->tell(ended);
    };
    request.retry = [](Request& r) noexcept { static_cast<WaitingCaller*>(r.owner)->tell(retry); };
    if (device.submit(request) == Submit::done) return request.status;
    if (caller.wait() == ended) return request.status;
  }
}

}  // namespace blockloom::nbd
