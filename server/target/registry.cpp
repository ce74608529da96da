#include <array>
#include <deque>

#include <fmt/format.h>

#include "server/target/target.hpp"
#include "server/target/types.hpp"

namespace blockloom {

std::span<const TargetType> target_types() noexcept {
  static constexpr std::array types{
      delay_target_type,  error_target_type,   flakey_target_type, linear_target_type,
      mirror_target_type, striped_target_type, zero_target_type,
  };
  return types;
}

namespace {

std::deque<TargetType>& added_types() {
  static std::deque<TargetType> types;
  return types;
}

}  // namespace

const TargetType* find_target_type(std::string_view name) noexcept {
  for (const TargetType& type : target_types())
    if (type.name == name) return &type;
  for (const TargetType& type : added_types())
    if (type.name == name) return &type;
  return nullptr;
}

void add_target_type(const TargetType& type) {
  added_types().push_back(type);
}

Error wrong_count(std::string_view type, std::size_t count, std::string_view grammar) {
  return {Errc::invalid, fmt::format("{}: {} argument{}: expected {}", type, count,
                                     count == 1 ? "" : "s", grammar.empty() ? "none" : grammar)};
}

Result<std::string> Target::message(std::span<const std::string>) {
  return Error{Errc::not_supported, fmt::format("target '{}' takes no messages", type())};
}

}  // namespace blockloom
