#pragma once

#include <cstddef>
#include <optional>
#include <string>
#include <string_view>

#include "server/base/error.hpp"

namespace blockloom {

// Small files of ours, read and written whole. `what` begins the error's text: "state file".

/// nullopt: there is no such file. Errc::corrupt: it has more than `most` bytes. May wait for a
/// disk.
Result<std::optional<std::string>> read_whole(std::string_view what, const std::string& path,
                                              std::size_t most);

/// Makes the file (0600) or empties it, writes, and waits until that is durable. What must stay
/// whole at any instant is written under another name, and renamed.
Result<void> write_whole(std::string_view what, const std::string& path, std::string_view bytes);

}  // namespace blockloom
