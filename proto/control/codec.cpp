// The only file that knows the JSON library: text to Value and back.
#include <vector>

#include <fmt/format.h>
#include <nlohmann/json.hpp>

#include "proto/control/message.hpp"
#include "proto/control/value.hpp"

namespace blockloom::rpc {

/// Builds a Value from the events of nlohmann's SAX parser, which keeps no call stack of its own,
/// and ends the parse as soon as a limit is passed.
class ValueBuilder {
 public:
  ValueBuilder(Value& root, const Limits& limits) : root_(root), limits_(limits) {}

  bool null() { return add(Value()) != nullptr; }
  bool boolean(bool flag) { return add(Value(flag)) != nullptr; }
  bool number_integer(std::int64_t n) { return add(Value(n)) != nullptr; }
  bool number_unsigned(std::uint64_t n) { return add(Value(n)) != nullptr; }
  bool number_float(double n, const std::string&) { return add(Value(n)) != nullptr; }
  bool string(std::string& text) { return add(Value(std::move(text))) != nullptr; }
  bool binary(nlohmann::ordered_json::binary_t&) { return false; }  // not in JSON texts
  bool start_object(std::size_t) { return open(Value::object()); }
  bool start_array(std::size_t) { return open(Value::array()); }
  bool end_object() { return close(); }
  bool end_array() { return close(); }

  bool key(std::string& name) {
    if (open_.back()->find(name))
      return fail(code::parse_error, fmt::format("the name {} occurs twice", in_quotes(name)));
    if (std::get<Value::Object>(open_.back()->data_).size() >= limits_.members)
      return fail(code::invalid_request,
                  fmt::format("an object has more than {} members", limits_.members));
    key_ = std::move(name);
    return true;
  }

  bool parse_error(std::size_t position, const std::string&, const nlohmann::detail::exception&) {
    return fail(code::parse_error, fmt::format("not a JSON text: error at byte {}", position));
  }

  const Failure& failure() const { return failure_; }

 private:
  bool fail(int code, std::string message) {
    failure_ = {code, std::move(message), {}};
    return false;
  }

  Value* add(Value value) {
    if (++count_ > limits_.values) {
      fail(code::invalid_request, fmt::format("more than {} values", limits_.values));
      return nullptr;
    }
    if (open_.empty()) {
      root_ = std::move(value);
      return &root_;
    }
    // A parent does not grow while its child is open, so these pointers hold.
    if (auto* items = std::get_if<Value::Array>(&open_.back()->data_)) {
      items->push_back(std::move(value));
      return &items->back();
    }
    auto& members = std::get<Value::Object>(open_.back()->data_);
    members.push_back({std::move(key_), std::move(value)});
    return &members.back().value;
  }

  bool open(Value value) {
    if (open_.size() >= limits_.depth)
      return fail(code::invalid_request, fmt::format("nested deeper than {}", limits_.depth));
    Value* added = add(std::move(value));
    if (added) open_.push_back(added);
    return added != nullptr;
  }

  bool close() {
    open_.pop_back();
    return true;
  }

  Value& root_;
  const Limits& limits_;
  std::vector<Value*> open_;
  std::string key_;
  std::size_t count_ = 0;
  Failure failure_{code::parse_error, "not a JSON text", {}};
};

/// Turns a Value into the library's, which writes it. Depth is bounded by who made the Value.
struct ValueWriter {
  static nlohmann::ordered_json convert(const Value& value) {
    using Json = nlohmann::ordered_json;
    struct Visitor {
      Json operator()(std::monostate) const { return nullptr; }
      Json operator()(bool flag) const { return flag; }
      Json operator()(std::int64_t n) const { return n; }
      Json operator()(std::uint64_t n) const { return n; }
      Json operator()(double n) const { return n; }
      Json operator()(const std::string& text) const { return text; }
      Json operator()(const Value::Array& items) const {
        Json::array_t out;
        out.reserve(items.size());
        for (const Value& item : items)
          out.push_back(convert(item));
        return out;
      }
      Json operator()(const Value::Object& members) const {
        // Pushed, not looked up: names are already distinct, and ordered_json searches in line.
        Json::object_t out;
        for (const auto& [name, member] : members)
          out.emplace_back(name, convert(member));
        return out;
      }
    };
    return std::visit(Visitor{}, value.data_);
  }
};

bool parse_value(std::string_view text, Value& value, Failure& failure, const Limits& limits) {
  if (text.size() > limits.bytes) {
    failure = {code::invalid_request,
               fmt::format("{} bytes; at most {} are taken", text.size(), limits.bytes),
               {}};
    return false;
  }
  value = Value();
  ValueBuilder builder(value, limits);
  if (nlohmann::ordered_json::sax_parse(text.begin(), text.end(), &builder)) return true;
  failure = builder.failure();
  return false;
}

std::string to_text(const Value& value, int indent) {
  return ValueWriter::convert(value).dump(indent > 0 ? indent : -1, ' ', false,
                                          nlohmann::ordered_json::error_handler_t::replace);
}

}  // namespace blockloom::rpc
