#include "server/iscsi/sanitize.hpp"

#include <algorithm>
#include <condition_variable>
#include <exception>
#include <utility>

#include <fmt/format.h>

#include "server/base/log.hpp"
#include "server/base/thread.hpp"
#include "server/iscsi/unit_state.hpp"

namespace blockloom {
namespace {

constexpr std::uint64_t sanitize_bytes = std::uint64_t{1} << 20;

/// A request that this thread waits for.
class Waited {
 public:
  Waited() {
    request_.owner = this;
    request_.complete = [](Request& r) noexcept { static_cast<Waited*>(r.owner)->wake(1); };
    request_.retry = [](Request& r) noexcept { static_cast<Waited*>(r.owner)->wake(2); };
  }

  Errc run(Device& device, Op op, std::uint64_t offset, std::uint64_t length, std::byte* data,
           std::uint8_t flags = 0) {
    request_.op = op;
    request_.flags = flags;
    request_.status = Errc::ok;
    request_.offset = Bytes(offset);
    request_.length = Bytes(length);
    request_.data = data;
    request_.queued_ns = 0;
    while (device.submit(request_) == Submit::pending) {
      std::unique_lock lock(mutex_);
      changed_.wait(lock, [this] { return state_ != 0; });
      if (std::exchange(state_, 0) == 1) break;  // ended; else it is to be submitted again
    }
    return request_.status;
  }

 private:
  void wake(int state) noexcept {
    const std::lock_guard lock(mutex_);
    state_ = state;
    changed_.notify_one();
  }

  Request request_;
  std::mutex mutex_;
  std::condition_variable changed_;
  int state_ = 0;
};

/// Overwrites all of the device, pass after pass; every block reaches the medium before the next
/// pass begins.
Errc overwrite_all(UnitState& unit, const SanitizePlan& plan, const std::atomic<bool>& stopping) {
  Device& device = *unit.device;
  const std::uint64_t size = device.size().value;
  const std::uint64_t whole = size * plan.passes;
  std::vector<std::byte> data(sanitize_bytes);
  Waited waited;
  for (unsigned pass = 0; pass < plan.passes; ++pass) {
    const std::uint8_t flip = plan.inverts && pass % 2 == 1 ? 0xff : 0;
    for (std::size_t at = 0; at < data.size(); ++at)
      data[at] = static_cast<std::byte>(plan.block[at % plan.block.size()] ^ flip);
    for (std::uint64_t at = 0; at < size; at += sanitize_bytes) {
      if (stopping) return Errc::shutdown;
      const Errc status =
          waited.run(device, Op::write, at, std::min(sanitize_bytes, size - at), data.data());
      if (status != Errc::ok) return status;
      const double part = static_cast<double>(size * pass + at) / static_cast<double>(whole);
      unit.sanitizing.progress = static_cast<std::uint16_t>(part * 65535);
    }
    if (const Errc status = waited.run(device, Op::flush, 0, 0, nullptr); status != Errc::ok)
      return status;
  }
  if (!plan.unmaps) return Errc::ok;
  for (std::uint64_t at = 0; at < size; at += sanitize_bytes * 256) {
    const Errc status = waited.run(device, Op::zero, at, std::min(sanitize_bytes * 256, size - at),
                                   nullptr, io_flag::may_trim);
    if (status != Errc::ok) return status;
  }
  return waited.run(device, Op::flush, 0, 0, nullptr);
}

}  // namespace

Sanitizers::~Sanitizers() {
  stopping_ = true;
  for (const auto& job : jobs_)
    job->thread.join();
}

void Sanitizers::reap_locked() {
  std::erase_if(jobs_, [](const std::unique_ptr<Job>& job) {
    if (!job->ended) return false;
    job->thread.join();
    return true;
  });
}

bool Sanitizers::start(std::shared_ptr<LogicalUnit> unit, SanitizePlan plan) noexcept {
  const std::lock_guard lock(mutex_);
  reap_locked();
  try {
    jobs_.reserve(jobs_.size() + 1);
    auto job = std::make_unique<Job>();
    Job& place = *job;
    job->thread =
        std::thread([this, &place, unit = std::move(unit), plan = std::move(plan)]() mutable {
          run(*unit, plan);
          unit.reset();
          place.ended = true;
        });
    jobs_.push_back(std::move(job));
  } catch (const std::exception&) {
    return false;
  }
  return true;
}

void Sanitizers::run(LogicalUnit& unit, const SanitizePlan& plan) noexcept {
  block_signals();
  set_thread_name("bl-sanitize");
  UnitState& state = unit.state();
  Errc status = Errc::no_memory;
  try {
    status = overwrite_all(state, plan, stopping_);
    if (status == Errc::ok)
      log_info(fmt::format("iscsi: device {} is sanitized", quoted(state.options.device)));
    else
      log_error(fmt::format("iscsi: SANITIZE of device {} failed: {}", quoted(state.options.device),
                            to_string(status)));
  } catch (const std::exception&) {  // no memory: it has failed
  }
  ScsiTask* waiter = nullptr;
  {
    const std::lock_guard lock(state.mutex);
    state.sanitizing.state = status == Errc::ok ? SanitizeState::none : SanitizeState::failed;
    waiter = std::exchange(state.sanitizing.waiter, nullptr);
  }
  if (waiter != nullptr) resume_task(*waiter);
}

}  // namespace blockloom
