#pragma once

#include "server/daemon/config_reader.hpp"
#include "server/dump/options.hpp"

namespace blockloom {

/// The keys of [dump]. The reader and the target outlive them.
TomlReader::Keys dump_keys(TomlReader& in, dump::Options& out);

/// "512MiB", "10GiB", "1TiB": a whole number and its unit, powers of 1024.
Result<std::uint64_t> parse_size(std::string_view text);

}  // namespace blockloom
