#pragma once

#include <doctest/doctest.h>

#include "proto/control/message.hpp"

/// The value that a JSON text is; the test fails where it is none.
inline blockloom::rpc::Value value(std::string_view text) {
  blockloom::rpc::Value result;
  blockloom::rpc::Failure failure;
  REQUIRE_MESSAGE(blockloom::rpc::parse_value(text, result, failure), failure.message);
  return result;
}
