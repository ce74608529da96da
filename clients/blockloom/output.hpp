#pragma once

#include <string>

#include "proto/control/value.hpp"

/// What people read, made of the server's answers; dmsetup's texts where it has them. Pure.
namespace blockloom::cli {

/// The device number that `dmsetup` would show before the minor one: what the kernel usually
/// gives to device-mapper. The devices here have none; scripts expect two numbers.
inline constexpr int major_number = 254;

std::string ls_text(const rpc::Value& answer);
std::string tree_text(const rpc::Value& answer);
std::string info_text(const rpc::Value& answer);
std::string info_columns(const rpc::Value& answer, bool headings);
/// Of `table` and `status`: with several devices each line begins with the name.
std::string lines_text(const rpc::Value& answer, bool with_names);
std::string deps_text(const rpc::Value& answer, bool with_names);
std::string targets_text(const rpc::Value& answer);
std::string apply_text(const rpc::Value& answer, bool only_checked);
std::string event_text(const rpc::Value& event);
std::string attach_text(const rpc::Value& answer);

/// Rates and latencies between two answers of `stats`; see blockloom(8) for the names.
rpc::Value rates_of(const rpc::Value& before, const rpc::Value& after);
std::string top_text(const rpc::Value& rates);

/// "1.25 ms": three digits and a unit.
std::string time_text(double seconds);

}  // namespace blockloom::cli
