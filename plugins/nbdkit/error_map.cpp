#include "plugins/nbdkit/error_map.hpp"

#include <cerrno>

namespace blockloom::nbd {

int to_nbd_errno(Errc code, Op op) noexcept {
  switch (code) {
    case Errc::ok:
      return 0;
    case Errc::invalid:
      return EINVAL;
    case Errc::out_of_range:
      // The protocol's own distinction: writing past the end is a lack of space.
      return op == Op::write || op == Op::zero ? ENOSPC : EINVAL;
    case Errc::read_only:
      return EROFS;
    case Errc::permission:
      return EPERM;
    case Errc::not_supported:
      return ENOTSUP;
    case Errc::no_space:
      return ENOSPC;
    case Errc::no_memory:
      return ENOMEM;
    case Errc::shutdown:
      return ESHUTDOWN;
    case Errc::not_found:
    case Errc::exists:
    case Errc::busy:
    case Errc::loop:
    case Errc::io:
    case Errc::timed_out:
    case Errc::cancelled:
    case Errc::removed:
    case Errc::limit:
    case Errc::corrupt:
      return EIO;
  }
  return EIO;
}

}  // namespace blockloom::nbd
