#pragma once

#include <cstdint>

namespace blockloom::dump {

/// A number for this boot of the machine; 0 if it cannot be had.
std::uint64_t boot_number();

/// When a process of this machine started, in ticks since the boot; 0: there is none of that pid.
std::uint64_t process_start(std::uint32_t pid);

}  // namespace blockloom::dump
