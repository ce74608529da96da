#include "plugins/nbdkit/error_map.hpp"

#include <cerrno>
#include <set>

#include <doctest/doctest.h>

using namespace blockloom;
using blockloom::nbd::to_nbd_errno;

TEST_CASE("every error has its errno at the NBD border") {
  struct Row {
    Errc code;
    int on_read, on_write;
  };
  const Row rows[] = {
      {Errc::ok, 0, 0},
      {Errc::invalid, EINVAL, EINVAL},
      {Errc::out_of_range, EINVAL, ENOSPC},
      {Errc::not_found, EIO, EIO},
      {Errc::exists, EIO, EIO},
      {Errc::busy, EIO, EIO},
      {Errc::loop, EIO, EIO},
      {Errc::read_only, EROFS, EROFS},
      {Errc::not_supported, ENOTSUP, ENOTSUP},
      {Errc::no_space, ENOSPC, ENOSPC},
      {Errc::no_memory, ENOMEM, ENOMEM},
      {Errc::permission, EPERM, EPERM},
      {Errc::io, EIO, EIO},
      {Errc::timed_out, EIO, EIO},
      {Errc::cancelled, EIO, EIO},
      {Errc::removed, EIO, EIO},
      {Errc::shutdown, ESHUTDOWN, ESHUTDOWN},
      {Errc::limit, EIO, EIO},
      {Errc::corrupt, EIO, EIO},
  };
  std::set<Errc> seen;
  for (const Row& row : rows) {
    CAPTURE(to_string(row.code));
    CHECK(to_nbd_errno(row.code, Op::read) == row.on_read);
    CHECK(to_nbd_errno(row.code, Op::write) == row.on_write);
    seen.insert(row.code);
  }
  CHECK(seen.size() == static_cast<std::size_t>(Errc::corrupt) + 1);
}

TEST_CASE("zeroing past the end is a lack of space, asking or trimming there a mistake") {
  CHECK(to_nbd_errno(Errc::out_of_range, Op::zero) == ENOSPC);
  CHECK(to_nbd_errno(Errc::out_of_range, Op::trim) == EINVAL);
  CHECK(to_nbd_errno(Errc::out_of_range, Op::cache) == EINVAL);
  CHECK(to_nbd_errno(Errc::out_of_range, Op::extents) == EINVAL);
}

TEST_CASE("whatever happens is an errno that nbdkit hands on, never one it turns into EINVAL") {
  // nbdkit-plugin(3): anything but these reaches the client as EINVAL.
  const std::set<int> carried{0, EROFS, EPERM, EIO, ENOMEM, ENOSPC, EINVAL, ESHUTDOWN, ENOTSUP};
  for (int code = 0; code < 256; ++code)
    for (const Op op : {Op::read, Op::write, Op::flush, Op::trim, Op::zero, Op::cache, Op::extents})
      CHECK(carried.contains(to_nbd_errno(static_cast<Errc>(code), op)));
}
