#include "proto/control/message.hpp"

#include <fmt/format.h>

namespace blockloom::rpc {
namespace {

constexpr std::size_t longest_id = 256;

bool valid_id(const Value& id) {
  if (const auto* text = id.string()) return text->size() <= longest_id;
  return id.is_null() || id.is_number();
}

void refuse(Request& request, std::string message) {
  request.notification = false;
  request.failure = Failure{code::invalid_request, std::move(message), {}};
}

Request to_request(const Value& value) {
  Request request;
  if (!value.members()) {
    refuse(request, fmt::format("a request is an object; this is {} {}",
                                value.kind() == "array" || value.kind() == "object" ? "an" : "a",
                                value.kind()));
    return request;
  }
  const Value* id = value.find("id");
  if (id && !valid_id(*id)) {
    refuse(request, fmt::format("\"id\" must be null, a number, or a string of at most {} bytes",
                                longest_id));
    return request;
  }
  request.notification = id == nullptr;
  if (id) request.id = *id;

  const auto* version = value["jsonrpc"].string();
  if (!version || *version != "2.0") {
    refuse(request, "\"jsonrpc\" must be \"2.0\"");
    return request;
  }
  const auto* method = value["method"].string();
  if (!method || method->empty()) {
    refuse(request, "\"method\" must be a string that names a method");
    return request;
  }
  if (const Value* params = value.find("params")) {
    if (!params->items() && !params->members()) {
      refuse(request, fmt::format("\"params\" must be an object; this is a {}", params->kind()));
      return request;
    }
    request.params = *params;
  }
  request.method = *method;
  return request;
}

Value envelope() {
  Value text = Value::object();
  text.set("jsonrpc", "2.0");
  return text;
}

}  // namespace

Incoming parse_request(std::string_view text, const Limits& limits) {
  Incoming incoming;
  Value value;
  Failure failure;
  if (!parse_value(text, value, failure, limits)) {
    Request broken;
    broken.failure = std::move(failure);
    incoming.requests.push_back(std::move(broken));
    return incoming;
  }
  const auto* items = value.items();
  if (!items) {
    incoming.requests.push_back(to_request(value));
    return incoming;
  }
  if (items->empty() || items->size() > limits.batch) {
    Request broken;
    refuse(broken, fmt::format("a batch has 1 to {} requests; this one has {}", limits.batch,
                               items->size()));
    incoming.requests.push_back(std::move(broken));
    return incoming;
  }
  incoming.batch = true;
  for (const Value& item : *items)
    incoming.requests.push_back(to_request(item));
  return incoming;
}

bool parse_reply(std::string_view text, Reply& reply, std::string& why, const Limits& limits) {
  Value value;
  Failure failure;
  if (!parse_value(text, value, failure, limits)) {
    why = failure.message;
    return false;
  }
  reply = Reply{};
  if (value["jsonrpc"].text() != "2.0") {
    why = "not a JSON-RPC 2.0 answer";
    return false;
  }
  if (const auto* method = value["method"].string()) {
    reply.method = *method;
    reply.params = value["params"];
    return true;
  }
  reply.id = value["id"];
  if (const Value* error = value.find("error")) {
    double number = code::internal_error;
    (*error)["code"].number(number);
    // Only the 32 bits of a code: a server's bytes decide nothing else.
    const bool sane = number >= -2147483648.0 && number <= 2147483647.0;
    reply.failure = Failure{sane ? static_cast<int>(number) : code::internal_error,
                            (*error)["message"].text(), (*error)["data"]};
    return true;
  }
  const Value* result = value.find("result");
  if (!result) {
    why = "an answer with neither \"result\" nor \"error\"";
    return false;
  }
  reply.result = *result;
  return true;
}

std::string write_request(const Value& id, std::string_view method, const Value& params) {
  Value text = envelope();
  text.set("id", id).set("method", method);
  if (!params.is_null()) text.set("params", params);
  return to_text(text);
}

std::string write_notification(std::string_view method, const Value& params) {
  Value text = envelope();
  text.set("method", method).set("params", params);
  return to_text(text);
}

std::string write_result(const Value& id, const Value& result) {
  Value text = envelope();
  text.set("id", id).set("result", result);
  return to_text(text);
}

std::string write_failure(const Value& id, const Failure& failure) {
  Value error = Value::object();
  error.set("code", failure.code).set("message", failure.message);
  if (!failure.data.is_null()) error.set("data", failure.data);
  Value text = envelope();
  text.set("id", id).set("error", std::move(error));
  return to_text(text);
}

std::string write_batch(const std::vector<std::string>& answers) {
  return fmt::format("[{}]", fmt::join(answers, ","));
}

std::string in_quotes(std::string_view word) {
  constexpr std::size_t longest = 64;
  if (word.size() <= longest) return fmt::format("'{}'", word);
  return fmt::format("'{}…'", word.substr(0, longest));
}

}  // namespace blockloom::rpc
