#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <utility>

#include "server/base/clock.hpp"
#include "server/base/error.hpp"
#include "server/base/unique_fd.hpp"
#include "server/base/units.hpp"
#include "server/leg/nbd_uri.hpp"

struct nbd_handle;

namespace blockloom {

/// A descriptor that a thread in poll() is woken by; level-triggered until drain(). Any thread.
class WakeFd {
 public:
  static Result<WakeFd> create();
  int fd() const noexcept { return fd_.get(); }
  void wake() const noexcept;
  void drain() const noexcept;

 private:
  explicit WakeFd(int fd) noexcept : fd_(fd) {}
  UniqueFd fd_;
};

/// What a server said of an export in the handshake, as far as it can be believed.
struct NbdExport {
  Bytes size;
  bool read_only = false;
  bool can_flush = false, can_fua = false, can_trim = false, can_zero = false;
  bool can_fast_zero = false, can_cache = false, can_multi_conn = false;
  bool structured = false;                ///< answers to reads come in chunks
  bool can_send_whole = false;            ///< of which it makes one if asked (NBD_CMD_FLAG_DF)
  bool can_tell_extents = false;          ///< base:allocation
  std::uint32_t min_block = 1;            ///< offsets and lengths are multiples; a power of two
  std::uint32_t max_payload = 32U << 20;  ///< of one read or write; a multiple of min_block and 512
  std::string description;
};

struct NbdHandleCloser {
  void operator()(nbd_handle* handle) const noexcept;
};

/// A connection whose handshake is done.
struct NbdLink {
  std::unique_ptr<nbd_handle, NbdHandleCloser> handle;
  /// The socket once more, for poll() and shutdown(): libnbd closes its own when the link dies.
  UniqueFd socket;
  NbdExport facts;
};

/// The peer has not hung up, as far as this side knows yet.
bool is_alive(const UniqueFd& socket) noexcept;

/// Connects in the calling thread, by the deadline (but for the resolver, whose bound is its own),
/// unless `abort` is woken first (Errc::cancelled). The error's message is what failed, without
/// the server's name.
Result<NbdLink> connect_nbd(const NbdUri& uri, const std::string& export_name, TimePoint deadline,
                            const WakeFd& abort);

}  // namespace blockloom
