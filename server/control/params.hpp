#pragma once

#include <cstdint>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "proto/control/value.hpp"
#include "server/base/clock.hpp"
#include "server/base/error.hpp"

namespace blockloom::control {

enum class ParamType : std::uint8_t {
  string,
  boolean,
  count,    ///< a whole number from 0
  seconds,  ///< a number from 0 to longest_seconds
  words,    ///< an array of strings
  devices,  ///< an array of objects; to_specs() reads it
};

/// No parameter asks for a longer time: two hours are "for ever" to a person.
inline constexpr double longest_seconds = 7200;

enum class Need : std::uint8_t { optional, required };

struct ParamSpec {
  std::string_view name;
  ParamType type;
  Need need = Need::optional;
};

/// As the documentation writes it: "string", "boolean", "count", …
std::string_view to_string(ParamType type) noexcept;

/// Checks parameters against what a method takes: unknown and missing names, types, ranges. The
/// error names the method and the parameter.
Result<void> check_params(std::string_view method, const rpc::Value& params,
                          std::span<const ParamSpec> specs);

/// Parameters that were checked. What was not given reads as the default.
class Params {
 public:
  explicit Params(const rpc::Value& params) : params_(params) {}

  bool has(std::string_view name) const { return params_.find(name) != nullptr; }
  std::string text(std::string_view name) const { return params_[name].text(); }
  bool flag(std::string_view name, bool otherwise = false) const;
  std::uint64_t count(std::string_view name) const { return params_[name].whole(); }
  Duration seconds(std::string_view name) const;
  std::vector<std::string> words(std::string_view name) const;
  const rpc::Value& value(std::string_view name) const { return params_[name]; }

 private:
  const rpc::Value& params_;
};

}  // namespace blockloom::control
