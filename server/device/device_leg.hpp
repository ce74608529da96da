#pragma once

#include <functional>
#include <memory>
#include <string>

#include "server/base/timer_queue.hpp"
#include "server/device/device.hpp"
#include "server/leg/leg.hpp"

namespace blockloom {

/// Another device as a leg (`dev:NAME`): requests go to whatever its live table is then, and wait
/// while it is suspended. Keeps the device open.
class DeviceLeg final : public Leg {
 public:
  /// `size` is what the table above may use. `closed` runs once, when the leg ends; `worker` is
  /// where a request goes on that waited for a resume, and outlives the leg.
  DeviceLeg(std::shared_ptr<Device> device, Bytes size, TimerQueue& worker,
            std::function<void(const std::shared_ptr<Device>&)> closed);
  ~DeviceLeg() override;

  std::string uri() const override { return "dev:" + device_->name(); }
  std::string device_name() const override { return device_->name(); }
  Bytes size() const noexcept override { return size_; }
  bool read_only() const noexcept override { return device_->read_only(); }

 private:
  struct Nested;

  Submit do_submit(Io& io) noexcept override;
  void resubmit(Nested& nested) noexcept;

  const std::shared_ptr<Device> device_;
  const Bytes size_;
  TimerQueue& worker_;
  const std::function<void(const std::shared_ptr<Device>&)> closed_;
};

}  // namespace blockloom
