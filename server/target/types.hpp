#pragma once

#include "server/target/target.hpp"

namespace blockloom {

/// Every kind of target, each from the file of its name; target_types() lists them. The versions
/// are those that `dmsetup targets` prints in Linux 6.1; zero's is that of 6.4, the first to take
/// discards, as ours does.
Result<std::unique_ptr<Target>> create_delay_target(const TargetArgs& args);
Result<std::unique_ptr<Target>> create_error_target(const TargetArgs& args);
Result<std::unique_ptr<Target>> create_flakey_target(const TargetArgs& args);
Result<std::unique_ptr<Target>> create_linear_target(const TargetArgs& args);
Result<std::unique_ptr<Target>> create_mirror_target(const TargetArgs& args);
Result<std::unique_ptr<Target>> create_striped_target(const TargetArgs& args);
Result<std::unique_ptr<Target>> create_zero_target(const TargetArgs& args);

inline constexpr TargetType delay_target_type{"delay", "1.2.1", create_delay_target};
inline constexpr TargetType error_target_type{"error", "1.5.0", create_error_target};
inline constexpr TargetType flakey_target_type{"flakey", "1.5.0", create_flakey_target};
inline constexpr TargetType linear_target_type{"linear", "1.4.0", create_linear_target};
inline constexpr TargetType mirror_target_type{"mirror", "1.14.0", create_mirror_target};
inline constexpr TargetType striped_target_type{"striped", "1.6.0", create_striped_target};
inline constexpr TargetType zero_target_type{"zero", "1.2.0", create_zero_target};

/// "TYPE: N arguments: expected GRAMMAR", for a wrong count of words.
Error wrong_count(std::string_view type, std::size_t count, std::string_view grammar);

}  // namespace blockloom
