#pragma once

#include <cstdint>

#include "server/leg/io.hpp"

namespace blockloom::io_flag {

/// read: where the leg would wait for a disk it does nothing and fails with Errc::busy at once, and
/// no account counts it; the submitter asks again without the flag, from a thread that may wait. A
/// table passes it on only where all of it is inline: anything else does not block its submitter.
inline constexpr std::uint8_t nowait = 16;

}  // namespace blockloom::io_flag

namespace blockloom {

/// The read was refused because of io_flag::nowait.
inline bool would_wait(Errc status, std::uint8_t flags) noexcept {
  return status == Errc::busy && (flags & io_flag::nowait) != 0;
}

}  // namespace blockloom
