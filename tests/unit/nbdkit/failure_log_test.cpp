#include "plugins/nbdkit/failure_log.hpp"

#include <doctest/doctest.h>

using blockloom::nbd::FailureLog;

TEST_CASE("a flood of failures writes a few lines a second, and then says how many it held back") {
  FailureLog log;
  std::uint64_t held_back = 0;
  unsigned admitted = 0;
  for (int i = 0; i < 1000; ++i)
    admitted += log.admit(7, held_back) ? 1 : 0;
  CHECK(admitted == FailureLog::lines_per_second);
  CHECK(held_back == 0);
  CHECK(log.admit(8, held_back));
  CHECK(held_back == 1000 - FailureLog::lines_per_second);
  CHECK(log.admit(9, held_back));
  CHECK(held_back == 0);
}
