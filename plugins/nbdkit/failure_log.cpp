#include "plugins/nbdkit/failure_log.hpp"

#include <fmt/format.h>

#include "server/base/clock.hpp"
#include "server/base/log.hpp"

namespace blockloom::nbd {
namespace {

const char* name_of(Op op) noexcept {
  switch (op) {
    case Op::read:
      return "read";
    case Op::write:
      return "write";
    case Op::flush:
      return "flush";
    case Op::trim:
      return "trim";
    case Op::zero:
      return "write zeroes";
    case Op::cache:
      return "cache";
    case Op::extents:
      return "block status";
  }
  return "request";
}

/// What clients may expect to be told: an offer declined, and the end.
bool is_ordinary(const Request& request) noexcept {
  return request.status == Errc::shutdown ||
         (request.status == Errc::not_supported && (request.flags & io_flag::fast) != 0);
}

}  // namespace

bool FailureLog::admit(std::uint64_t second, std::uint64_t& suppressed) noexcept {
  suppressed = 0;
  std::uint64_t last = second_.load();
  if (last != second && second_.compare_exchange_strong(last, second)) {
    lines_.store(0);
    suppressed = suppressed_.exchange(0);
  }
  if (lines_.fetch_add(1) < lines_per_second) return true;
  suppressed_.fetch_add(1);
  return false;
}

void FailureLog::note(const Device& device, const Request& request) noexcept {
  if (is_ordinary(request)) return;
  std::uint64_t suppressed = 0;
  if (!admit(now_ns() / 1'000'000'000 + 1, suppressed)) return;
  try {
    if (suppressed != 0)
      log_error(fmt::format("{} more failed requests were not logged", suppressed));
    log_error(fmt::format("device '{}': {} of {} bytes at {} failed: {}", device.name(),
                          name_of(request.op), request.length.value, request.offset.value,
                          to_string(request.status)));
  } catch (...) {  // no memory for a message: the client is told all the same
  }
}

}  // namespace blockloom::nbd
