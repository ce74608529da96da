#include "proto/control/message.hpp"

#include <doctest/doctest.h>

using namespace blockloom::rpc;

namespace {

Request one(std::string_view text) {
  Incoming incoming = parse_request(text);
  REQUIRE_FALSE(incoming.batch);
  REQUIRE(incoming.requests.size() == 1);
  return incoming.requests[0];
}

}  // namespace

TEST_CASE("a call is read with its id, method and parameters") {
  const Request request =
      one(R"({"jsonrpc":"2.0","id":7,"method":"info","params":{"device":"a"}})");
  REQUIRE_FALSE(request.failure);
  CHECK_FALSE(request.notification);
  CHECK(request.id.whole() == 7);
  CHECK(request.method == "info");
  CHECK(request.params["device"].text() == "a");
}

TEST_CASE("a call without id is a notification; with a null id it is not") {
  CHECK(one(R"({"jsonrpc":"2.0","method":"list"})").notification);
  CHECK_FALSE(one(R"({"jsonrpc":"2.0","method":"list","id":null})").notification);
}

TEST_CASE("what is not a request is refused with the specification's code") {
  struct Row {
    const char* text;
    int code;
  };
  for (const Row& row :
       {Row{"{\"jsonrpc\"", code::parse_error}, Row{"1", code::invalid_request},
        Row{"null", code::invalid_request}, Row{"\"a\"", code::invalid_request},
        Row{"[]", code::invalid_request}, Row{"{}", code::invalid_request},
        Row{R"({"jsonrpc":"1.0","id":1,"method":"a"})", code::invalid_request},
        Row{R"({"jsonrpc":2.0,"id":1,"method":"a"})", code::invalid_request},
        Row{R"({"jsonrpc":"2.0","id":1})", code::invalid_request},
        Row{R"({"jsonrpc":"2.0","id":1,"method":""})", code::invalid_request},
        Row{R"({"jsonrpc":"2.0","id":1,"method":5})", code::invalid_request},
        Row{R"({"jsonrpc":"2.0","id":{},"method":"a"})", code::invalid_request},
        Row{R"({"jsonrpc":"2.0","id":1,"method":"a","params":3})", code::invalid_request}}) {
    CAPTURE(row.text);
    const Request request = one(row.text);
    REQUIRE(request.failure);
    CHECK(request.failure->code == row.code);
    CHECK_FALSE(request.failure->message.empty());
    CHECK_FALSE(request.notification);  // it is answered
  }
}

TEST_CASE("an id that can be read is kept for the refusal") {
  CHECK(one(R"({"jsonrpc":"1.0","id":"x","method":"a"})").id.text() == "x");
}

TEST_CASE("an id that is too long to send back is refused") {
  const std::string text =
      R"({"jsonrpc":"2.0","method":"a","id":")" + std::string(300, 'x') + "\"}";
  const Request request = one(text);
  REQUIRE(request.failure);
  CHECK(request.id.is_null());
}

TEST_CASE("a batch is read as its requests, good and bad") {
  const Incoming incoming = parse_request(R"([{"jsonrpc":"2.0","id":1,"method":"a"},5])");
  CHECK(incoming.batch);
  REQUIRE(incoming.requests.size() == 2);
  CHECK_FALSE(incoming.requests[0].failure);
  CHECK(incoming.requests[1].failure);
}

TEST_CASE("a batch is bounded") {
  std::string text = "[1";
  for (int i = 0; i < 64; ++i)
    text += ",1";
  const Incoming incoming = parse_request(text + "]");
  CHECK_FALSE(incoming.batch);
  REQUIRE(incoming.requests.size() == 1);
  REQUIRE(incoming.requests[0].failure);
  CHECK(incoming.requests[0].failure->message == "a batch has 1 to 64 requests; this one has 65");
}

TEST_CASE("what is written is read back") {
  Value params = Value::object();
  params.set("device", "ü\n");
  const Request request = one(write_request(Value("id-1"), "info", params));
  CHECK(request.id.text() == "id-1");
  CHECK(request.params == params);

  Reply reply;
  std::string why;
  REQUIRE(parse_reply(write_result(Value(3), params), reply, why));
  CHECK(reply.id.whole() == 3);
  CHECK(reply.result == params);

  Value data = Value::object();
  data.set("errc", "busy");
  REQUIRE(parse_reply(write_failure(Value(3), {-32006, "in use", data}), reply, why));
  REQUIRE(reply.failure);
  CHECK(reply.failure->code == -32006);
  CHECK(reply.failure->message == "in use");
  CHECK(reply.failure->data == data);

  REQUIRE(parse_reply(write_notification("event", params), reply, why));
  CHECK(reply.method == "event");
  CHECK(reply.params == params);
}

TEST_CASE("an answer that is none is refused with a reason") {
  for (const char* text :
       {"", "1", "{}", R"({"jsonrpc":"2.0","id":1})", R"({"id":1,"result":1})"}) {
    CAPTURE(text);
    Reply reply;
    std::string why;
    CHECK_FALSE(parse_reply(text, reply, why));
    CHECK_FALSE(why.empty());
  }
}

TEST_CASE("an error code beyond 32 bits is an internal error") {
  Reply reply;
  std::string why;
  REQUIRE(
      parse_reply(R"({"jsonrpc":"2.0","id":1,"error":{"code":1e30,"message":"x"}})", reply, why));
  CHECK(reply.failure->code == code::internal_error);
}
