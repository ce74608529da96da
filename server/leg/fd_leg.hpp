#pragma once

#include <atomic>
#include <memory>
#include <string>

#include "server/base/units.hpp"
#include "server/leg/leg.hpp"

namespace blockloom {

/// What a descriptor leads to.
enum class FdKind { file, block_device };

/// A leg over a descriptor: a file, a block device, a memfd. Runs in the calling thread, without
/// locks or allocation. What the kernel turns out not to support is remembered, and not tried
/// again.
class FdLeg final : public Leg {
 public:
  /// `fd` is closed by whoever destroys its last owner. `size` is what it was at open.
  FdLeg(std::string uri, std::shared_ptr<const int> fd, FdKind kind, Bytes size, bool read_only);

  Bytes size() const noexcept override { return size_; }
  bool read_only() const noexcept override { return read_only_; }
  bool inline_only() const noexcept override { return true; }
  Result<void> ready() override;

 private:
  using Flag = std::atomic<bool>;

  Submit do_submit(Io& io) noexcept override;
  Errc read(const Io& io) noexcept;
  Errc read_cached(const Io& io) noexcept;
  Errc write(const Io& io) noexcept;
  Errc write_durable(const Io& io) noexcept;
  Errc flush() noexcept;
  Errc trim(const Io& io) noexcept;
  Errc discard(const Io& io) noexcept;
  Errc zero(const Io& io) noexcept;
  Errc zero_by_kernel(const Io& io) noexcept;
  Errc write_zeroes(const Io& io) noexcept;
  Errc cache(const Io& io) noexcept;
  Errc extents(const Io& io) noexcept;
  Errc allocate(int mode, const Io& io, Flag& supported) noexcept;

  const int fd_;
  const FdKind kind_;
  const bool read_only_;
  const Bytes size_;
  const std::uint64_t block_size_;  // a block device's own
  const std::shared_ptr<const int> owner_;

  Flag can_nowait_{true};
  Flag can_dsync_{true};
  Flag can_punch_{true};
  Flag can_zero_range_{true};
  Flag can_allocate_{true};
  Flag can_zero_out_{true};
  Flag can_discard_{true};
  Flag can_seek_{true};
};

/// Takes a descriptor over: it is closed with the last owner.
std::shared_ptr<const int> own_fd(int fd);

}  // namespace blockloom
