#include "proto/control/value.hpp"

#include <algorithm>
#include <cmath>
#include <limits>

namespace blockloom::rpc {

Value::Value() noexcept = default;
Value::~Value() = default;
Value::Value(const Value&) = default;
Value::Value(Value&&) noexcept = default;
Value& Value::operator=(const Value&) = default;
Value& Value::operator=(Value&&) noexcept = default;
Value::Value(double number) : data_(number) {}
Value::Value(std::string text) : data_(std::move(text)) {}
Value::Value(Array items) : data_(std::move(items)) {}
Value::Value(Object members) : data_(std::move(members)) {}

Value Value::of_signed(std::int64_t number) {
  Value value;
  value.data_ = number;
  return value;
}

Value Value::of_unsigned(std::uint64_t number) {
  if (number <= static_cast<std::uint64_t>(std::numeric_limits<std::int64_t>::max()))
    return of_signed(static_cast<std::int64_t>(number));
  Value value;
  value.data_ = number;
  return value;
}

Value Value::array() {
  return Value(Array{});
}

Value Value::object() {
  return Value(Object{});
}

bool Value::is_number() const noexcept {
  return std::holds_alternative<std::int64_t>(data_) ||
         std::holds_alternative<std::uint64_t>(data_) || std::holds_alternative<double>(data_);
}

bool Value::unsigned_number(std::uint64_t& out) const noexcept {
  if (const auto* n = std::get_if<std::int64_t>(&data_)) {
    if (*n < 0) return false;
    out = static_cast<std::uint64_t>(*n);
    return true;
  }
  if (const auto* n = std::get_if<std::uint64_t>(&data_)) {
    out = *n;
    return true;
  }
  // Beyond 2^53 a double no longer says which whole number was meant.
  constexpr double exact = 9007199254740992.0;
  if (const auto* n = std::get_if<double>(&data_); n && *n >= 0 && *n <= exact) {
    if (std::trunc(*n) != *n) return false;
    out = static_cast<std::uint64_t>(*n);
    return true;
  }
  return false;
}

bool Value::number(double& out) const noexcept {
  if (const auto* n = std::get_if<std::int64_t>(&data_))
    out = static_cast<double>(*n);
  else if (const auto* u = std::get_if<std::uint64_t>(&data_))
    out = static_cast<double>(*u);
  else if (const auto* d = std::get_if<double>(&data_))
    out = *d;
  else
    return false;
  return true;
}

Value& Value::push(Value item) {
  if (is_null()) data_ = Array{};
  std::get<Array>(data_).push_back(std::move(item));
  return *this;
}

Value& Value::set(std::string name, Value value) {
  if (is_null()) data_ = Object{};
  auto& members = std::get<Object>(data_);
  const auto at = std::find_if(members.begin(), members.end(),
                               [&](const Member& member) { return member.name == name; });
  if (at != members.end())
    at->value = std::move(value);
  else
    members.push_back({std::move(name), std::move(value)});
  return *this;
}

const Value* Value::find(std::string_view name) const noexcept {
  const auto* all = members();
  if (!all) return nullptr;
  for (const Member& member : *all)
    if (member.name == name) return &member.value;
  return nullptr;
}

const Value& Value::operator[](std::string_view name) const noexcept {
  static const Value nothing;
  const Value* found = find(name);
  return found ? *found : nothing;
}

std::string Value::text() const {
  const auto* found = string();
  return found ? *found : std::string();
}

std::uint64_t Value::whole() const noexcept {
  std::uint64_t n = 0;
  return unsigned_number(n) ? n : 0;
}

double Value::real() const noexcept {
  double n = 0;
  return number(n) ? n : 0;
}

bool Value::flag() const noexcept {
  const bool* found = boolean();
  return found && *found;
}

const Value::Array& Value::list() const noexcept {
  static const Array nothing;
  const auto* found = items();
  return found ? *found : nothing;
}

std::string_view Value::kind() const noexcept {
  static constexpr std::string_view names[] = {"null",   "boolean", "number", "number",
                                               "number", "string",  "array",  "object"};
  return names[data_.index()];
}

bool Value::operator==(const Value& other) const {
  return data_ == other.data_;
}

}  // namespace blockloom::rpc
