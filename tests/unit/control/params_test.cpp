#include "server/control/params.hpp"

#include <doctest/doctest.h>

#include "proto/control/message.hpp"

using namespace blockloom;
using namespace blockloom::control;

namespace {

constexpr ParamSpec specs[] = {
    {"device", ParamType::string, Need::required},
    {"flush", ParamType::boolean},
    {"sector", ParamType::count},
    {"timeout_s", ParamType::seconds},
    {"words", ParamType::words},
    {"devices", ParamType::devices},
};

std::string why(std::string_view text) {
  rpc::Value params;
  rpc::Failure failure;
  REQUIRE(rpc::parse_value(text, params, failure));
  const auto checked = check_params("verb", params, specs);
  if (checked) return {};
  CHECK(checked.code() == Errc::invalid);
  return checked.error().message;
}

}  // namespace

TEST_CASE("parameters of the right types pass") {
  CHECK(why(R"({"device":"a","flush":true,"sector":18446744073709551615,"timeout_s":0.5,
               "words":["a"],"devices":[{}]})") == "");
}

TEST_CASE("a parameter that is unknown, missing or of another type is named") {
  CHECK(why(R"({"device":"a","devcie":"a"})") ==
        "verb: unknown parameter 'devcie'; it takes: device, flush, sector, timeout_s, words, "
        "devices");
  CHECK(why("{}") == "verb: parameter 'device' is missing; it must be a string");
  CHECK(why("null") == "verb: parameter 'device' is missing; it must be a string");
  CHECK(why("[\"a\"]") == "verb: parameters are given by name, in an object");
  CHECK(why(R"({"device":5})") == "verb: parameter 'device' must be a string");
  CHECK(why(R"({"device":"a","flush":1})") == "verb: parameter 'flush' must be true or false");
  CHECK(why(R"({"device":"a","sector":-1})") ==
        "verb: parameter 'sector' must be a whole number from 0");
  CHECK(why(R"({"device":"a","timeout_s":7201})") ==
        "verb: parameter 'timeout_s' must be a number of seconds from 0 to 7200");
  CHECK(why(R"({"device":"a","timeout_s":-0.1})") ==
        "verb: parameter 'timeout_s' must be a number of seconds from 0 to 7200");
  CHECK(why(R"({"device":"a","words":["a",1]})") ==
        "verb: parameter 'words' must be an array of strings");
  CHECK(why(R"({"device":"a","devices":["a"]})") ==
        "verb: parameter 'devices' must be an array of objects");
}

TEST_CASE("the name of an unknown parameter is cut before it fills the answer") {
  const std::string text = why("{\"" + std::string(100'000, 'x') + "\":1}");
  CHECK(text.size() < 300);
}
