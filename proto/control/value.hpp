#pragma once

#include <concepts>
#include <cstdint>
#include <string>
#include <string_view>
#include <utility>
#include <variant>
#include <vector>

namespace blockloom::rpc {

/// A JSON value. Objects keep the order of their members; whole numbers keep all 64 bits.
class Value {
 public:
  struct Member;
  using Array = std::vector<Value>;
  using Object = std::vector<Member>;

  // Defined where Member is complete; clang 14 insists.
  Value() noexcept;
  ~Value();
  Value(const Value&);
  Value(Value&&) noexcept;
  Value& operator=(const Value&);
  Value& operator=(Value&&) noexcept;

  Value(std::same_as<bool> auto flag) : data_(flag) {}
  Value(double number);
  Value(std::string text);
  Value(std::string_view text) : Value(std::string(text)) {}
  Value(const char* text) : Value(std::string(text)) {}
  Value(Array items);
  Value(Object members);
  template <std::integral T>
  requires(!std::same_as<T, bool>) Value(T number) : Value(of_number(number)) {}

  static Value array();
  static Value object();

  bool is_null() const noexcept { return std::holds_alternative<std::monostate>(data_); }
  bool is_number() const noexcept;

  // The value as one type, or null if it is of another. A number without a fraction is whole
  // however it was written; unsigned_number() refuses negative ones.
  const bool* boolean() const noexcept { return std::get_if<bool>(&data_); }
  const std::string* string() const noexcept { return std::get_if<std::string>(&data_); }
  const Array* items() const noexcept { return std::get_if<Array>(&data_); }
  const Object* members() const noexcept { return std::get_if<Object>(&data_); }
  bool unsigned_number(std::uint64_t& out) const noexcept;
  bool number(double& out) const noexcept;

  /// Adds to an array.
  Value& push(Value item);
  /// Adds a member to an object, or replaces it.
  Value& set(std::string name, Value value);
  const Value* find(std::string_view name) const noexcept;

  // For readers that take what is there: a missing or unlike value is empty, 0 or false.
  const Value& operator[](std::string_view name) const noexcept;
  std::string text() const;
  std::uint64_t whole() const noexcept;
  double real() const noexcept;
  bool flag() const noexcept;
  const Array& list() const noexcept;

  /// "null", "boolean", "number", "string", "array" or "object".
  std::string_view kind() const noexcept;

  bool operator==(const Value&) const;

 private:
  template <std::integral T>
  static Value of_number(T number) {
    if constexpr (std::unsigned_integral<T>)
      return of_unsigned(number);
    else
      return of_signed(number);
  }
  static Value of_signed(std::int64_t number);
  static Value of_unsigned(std::uint64_t number);

  friend class ValueBuilder;
  friend struct ValueWriter;
  std::variant<std::monostate, bool, std::int64_t, std::uint64_t, double, std::string, Array,
               Object>
      data_;
};

struct Value::Member {
  std::string name;
  Value value;
  bool operator==(const Member&) const = default;
};

/// The compact text, one line; an indent over 0 makes it many. Bytes that are not UTF-8 become
/// U+FFFD, so that the text is JSON whatever a name holds.
std::string to_text(const Value& value, int indent = 0);

}  // namespace blockloom::rpc
