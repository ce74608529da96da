#pragma once

#include <cstddef>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "proto/control/value.hpp"

/// JSON-RPC 2.0 (https://www.jsonrpc.org/specification), one JSON text a line. Pure: bytes in,
/// structs out; any thread.
namespace blockloom::rpc {

/// The specification's codes. Those of an application begin at application_error and go down.
namespace code {
inline constexpr int parse_error = -32700;
inline constexpr int invalid_request = -32600;
inline constexpr int method_not_found = -32601;
inline constexpr int invalid_params = -32602;
inline constexpr int internal_error = -32603;
inline constexpr int application_error = -32000;
}  // namespace code

/// What a text may cost. Beyond a bound it is refused while it is read.
struct Limits {
  std::size_t bytes = std::size_t{16} << 20;
  std::size_t depth = 32;       ///< of arrays and objects
  std::size_t values = 262144;  ///< in all
  std::size_t members = 256;    ///< of one object
  std::size_t batch = 64;       ///< requests in one text
};

/// A JSON-RPC error object.
struct Failure {
  int code = code::internal_error;
  std::string message;
  Value data;  ///< null: none
};

/// One call, or why it is not one.
struct Request {
  Value id;                   ///< null, string or number
  bool notification = false;  ///< no id was given: nobody waits for an answer
  std::string method;
  Value params;  ///< null, array or object
  std::optional<Failure> failure;
};

/// A text of requests. A text that is not JSON is one failed request without id.
struct Incoming {
  bool batch = false;  ///< answers go into one array
  std::vector<Request> requests;
};

Incoming parse_request(std::string_view text, const Limits& limits = {});

/// What a server sends: an answer to a request, or a notification.
struct Reply {
  Value id;
  std::string method;  ///< of a notification; else empty
  Value params;        ///< of a notification
  Value result;
  std::optional<Failure> failure;
};

/// Reads one answer or notification (not a batch). False: it is neither, and `why` says so.
bool parse_reply(std::string_view text, Reply& reply, std::string& why, const Limits& limits = {});

/// Reads any JSON text within the limits. False: `failure` says why.
bool parse_value(std::string_view text, Value& value, Failure& failure, const Limits& limits = {});

// Texts to send, without the line's end.
std::string write_request(const Value& id, std::string_view method, const Value& params);
std::string write_notification(std::string_view method, const Value& params);
std::string write_result(const Value& id, const Value& result);
std::string write_failure(const Value& id, const Failure& failure);
std::string write_batch(const std::vector<std::string>& answers);

/// A word for a message: quoted, cut to 64 bytes.
std::string in_quotes(std::string_view word);

}  // namespace blockloom::rpc
