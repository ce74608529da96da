#pragma once

#include <string>
#include <string_view>

namespace blockloom {

/// What a leg's URI leads to, without how it is reached: no users, passwords, times and numbers of
/// connections. Two URIs with one name lead to the same bytes; two names may, too (a host has more
/// than one). For what does not parse: the text. Pure.
///   "iscsi://HOST:PORT/TARGET/LUN", "nbd://HOST:PORT/EXPORT", "/PATH"; a fault leg keeps its
///   rules.
std::string storage_name(std::string_view uri);

}  // namespace blockloom
