#pragma once

#include <string>

#include "proto/control/value.hpp"

/// What people read of crash dumps. Pure.
namespace blockloom::cli {

std::string dumps_text(const rpc::Value& answer);
std::string dump_text(const rpc::Value& dump);
std::string dump_groups_text(const rpc::Value& answer);
std::string dump_info_text(const rpc::Value& answer);
/// The lines for FreeBSD, Debian and the RHEL family; `host`: this server as they reach it.
std::string dump_enable_text(const rpc::Value& info, const std::string& host);

}  // namespace blockloom::cli
