#include "server/leg/zero_bytes.hpp"

namespace blockloom {

// In .bss: the kernel's one zero page, read again and again.
alignas(4096) std::byte zero_bytes[zero_bytes_size];

}  // namespace blockloom
