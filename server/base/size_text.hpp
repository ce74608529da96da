#pragma once

#include <cstdint>
#include <string>

namespace blockloom {

/// "1.5 GiB": bytes as people read them, to four digits. Any thread.
std::string size_text(std::uint64_t bytes);

}  // namespace blockloom
