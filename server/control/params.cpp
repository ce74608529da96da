#include "server/control/params.hpp"

#include <algorithm>

#include <fmt/format.h>

#include "proto/control/message.hpp"

namespace blockloom::control {
namespace {

std::string_view expected(ParamType type) {
  switch (type) {
    case ParamType::string:
      return "a string";
    case ParamType::boolean:
      return "true or false";
    case ParamType::count:
      return "a whole number from 0";
    case ParamType::seconds:
      return "a number of seconds from 0 to 7200";
    case ParamType::words:
      return "an array of strings";
    case ParamType::devices:
      return "an array of objects";
  }
  return "something else";
}
static_assert(longest_seconds == 7200);  // as the text above says

bool fits(const rpc::Value& value, ParamType type) {
  std::uint64_t whole = 0;
  double number = 0;
  const auto* items = value.items();
  switch (type) {
    case ParamType::string:
      return value.string() != nullptr;
    case ParamType::boolean:
      return value.boolean() != nullptr;
    case ParamType::count:
      return value.unsigned_number(whole);
    case ParamType::seconds:
      return value.number(number) && number >= 0 && number <= longest_seconds;
    case ParamType::words:
      return items && std::all_of(items->begin(), items->end(),
                                  [](const rpc::Value& item) { return item.string() != nullptr; });
    case ParamType::devices:
      return items && std::all_of(items->begin(), items->end(),
                                  [](const rpc::Value& item) { return item.members() != nullptr; });
  }
  return false;
}

std::string names_of(std::span<const ParamSpec> specs) {
  if (specs.empty()) return "none";
  std::string names;
  for (const ParamSpec& spec : specs)
    names += (names.empty() ? "" : ", ") + std::string(spec.name);
  return names;
}

}  // namespace

std::string_view to_string(ParamType type) noexcept {
  switch (type) {
    case ParamType::string:
      return "string";
    case ParamType::boolean:
      return "boolean";
    case ParamType::count:
      return "count";
    case ParamType::seconds:
      return "seconds";
    case ParamType::words:
      return "words";
    case ParamType::devices:
      return "devices";
  }
  return "?";
}

Result<void> check_params(std::string_view method, const rpc::Value& params,
                          std::span<const ParamSpec> specs) {
  if (const auto* positional = params.items(); positional && !positional->empty())
    return Error{Errc::invalid,
                 fmt::format("{}: parameters are given by name, in an object", method)};
  if (const auto* members = params.members()) {
    for (const auto& [name, value] : *members) {
      const std::string_view wanted = name;
      const auto spec = std::find_if(specs.begin(), specs.end(),
                                     [&](const ParamSpec& s) { return s.name == wanted; });
      if (spec == specs.end())
        return Error{Errc::invalid, fmt::format("{}: unknown parameter {}; it takes: {}", method,
                                                rpc::in_quotes(name), names_of(specs))};
      if (!fits(value, spec->type))
        return Error{Errc::invalid, fmt::format("{}: parameter '{}' must be {}", method, name,
                                                expected(spec->type))};
    }
  }
  for (const ParamSpec& spec : specs)
    if (spec.need == Need::required && !params.find(spec.name))
      return Error{Errc::invalid, fmt::format("{}: parameter '{}' is missing; it must be {}",
                                              method, spec.name, expected(spec.type))};
  return {};
}

bool Params::flag(std::string_view name, bool otherwise) const {
  const bool* found = params_[name].boolean();
  return found ? *found : otherwise;
}

Duration Params::seconds(std::string_view name) const {
  return std::chrono::duration_cast<Duration>(std::chrono::duration<double>(params_[name].real()));
}

std::vector<std::string> Params::words(std::string_view name) const {
  std::vector<std::string> out;
  for (const rpc::Value& item : params_[name].list())
    out.push_back(item.text());
  return out;
}

}  // namespace blockloom::control
