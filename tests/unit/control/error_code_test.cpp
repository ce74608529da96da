#include "server/control/error_code.hpp"

#include <set>

#include <doctest/doctest.h>

using namespace blockloom;
using namespace blockloom::control;

TEST_CASE("every error has a code of its own in the range of applications, and comes back") {
  std::set<int> seen;
  for (int i = 1; i <= static_cast<int>(Errc::corrupt); ++i) {
    const auto errc = static_cast<Errc>(i);
    const int code = to_rpc_code(errc);
    CAPTURE(to_string(errc));
    CHECK(code < rpc::code::application_error);
    CHECK(code >= -32099);
    CHECK(seen.insert(code).second);
    CHECK(from_rpc_code(code) == errc);
  }
}

TEST_CASE("codes that clients know stay what they are") {
  CHECK(to_rpc_code(Errc::not_found) == -32003);
  CHECK(to_rpc_code(Errc::busy) == -32005);
  CHECK(to_rpc_code(Errc::timed_out) == -32013);
  CHECK(from_rpc_code(-1) == Errc::io);
}

TEST_CASE("a failure names its error") {
  const rpc::Failure failure = to_failure({Errc::busy, "open twice"});
  CHECK(failure.code == -32005);
  CHECK(failure.message == "open twice");
  CHECK(to_text(failure.data) == R"({"errc":"busy"})");
}
