#include "server/base/error.hpp"

#include <cerrno>

#include <doctest/doctest.h>

using namespace blockloom;

TEST_CASE("every code has a name of its own and an errno") {
  for (int i = 1; i <= static_cast<int>(Errc::corrupt); ++i) {
    const auto code = static_cast<Errc>(i);
    CAPTURE(i);
    CHECK(to_errno(code) != 0);
    for (int j = 0; j < i; ++j)
      CHECK(to_string(code) != to_string(static_cast<Errc>(j)));
  }
  CHECK(to_errno(Errc::ok) == 0);
}

TEST_CASE("an errno comes back as the code that says it best") {
  CHECK(from_errno(0) == Errc::ok);
  CHECK(from_errno(ENOSPC) == Errc::no_space);
  CHECK(from_errno(ENOTSUP) == Errc::not_supported);
  CHECK(from_errno(EPERM) == Errc::permission);
  CHECK(from_errno(ENOENT) == Errc::not_found);
  CHECK(from_errno(EROFS) == Errc::read_only);
  CHECK(from_errno(98765) == Errc::io);
}

TEST_CASE("a value outside the enum reads as io, not as memory") {
  CHECK(to_string(static_cast<Errc>(200)) == "io");
  CHECK(to_errno(static_cast<Errc>(200)) == EIO);
}

TEST_CASE("a system error names the thing and the reason") {
  const Error e = system_error("leg '/nowhere'", ENOENT);
  CHECK(e.code == Errc::not_found);
  CHECK(e.message == "leg '/nowhere': No such file or directory");
}

TEST_CASE("Result holds a value or an error") {
  const Result<int> good(7);
  CHECK(good);
  CHECK(good.value() == 7);
  CHECK(good.code() == Errc::ok);
  const Result<int> bad(Error{Errc::busy, "in use"});
  CHECK_FALSE(bad);
  CHECK(bad.error().message == "in use");
  CHECK(Result<void>().code() == Errc::ok);
  CHECK(Result<void>(Error{Errc::limit, ""}).code() == Errc::limit);
}

TEST_CASE("a quoted word is short and safe to print") {
  CHECK(quoted("a b") == "'a b'");
  CHECK(quoted("a\nb\x7f") == "'a?b?'");
  CHECK(quoted(std::string(64, 'x')) == "'" + std::string(64, 'x') + "'");
  CHECK(quoted(std::string(65, 'x')) == "'" + std::string(64, 'x') + "…'");
  // A character is never cut in two.
  CHECK(quoted(std::string(63, 'x') + "éy") == "'" + std::string(63, 'x') + "…'");
}
