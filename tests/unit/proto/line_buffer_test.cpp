#include "proto/control/line_buffer.hpp"

#include <string>
#include <vector>

#include <doctest/doctest.h>

using blockloom::rpc::LineBuffer;

TEST_CASE("lines come out whole however the bytes were cut") {
  const std::string stream = "one\n\ntwo\r\n  \nthree\nfour";
  for (std::size_t step = 1; step <= stream.size(); ++step) {
    CAPTURE(step);
    LineBuffer lines(100);
    std::vector<std::string> got;
    for (std::size_t at = 0; at < stream.size(); at += step) {
      lines.append(stream.substr(at, step));
      while (const auto line = lines.next())
        got.emplace_back(*line);
    }
    CHECK(got == std::vector<std::string>{"one", "two", "three"});
    CHECK(lines.size() == 4);
    CHECK_FALSE(lines.overflowed());
  }
}

TEST_CASE("a line over the limit is refused before it has come whole, and nothing follows it") {
  LineBuffer lines(8);
  lines.append("12345678\n");
  CHECK(lines.next() == "12345678");
  lines.append("123456789");
  CHECK_FALSE(lines.next());
  CHECK(lines.overflowed());
  lines.append("\nafter\n");
  CHECK_FALSE(lines.next());
  CHECK(lines.size() == 0);
}

TEST_CASE("a long run of short lines does not pile up") {
  LineBuffer lines(100);
  lines.append("begun");
  for (int i = 0; i < 1000; ++i) {
    lines.append(" and ended\nbegun");
    CHECK(lines.next() == "begun and ended");
    CHECK(lines.size() == 5);
  }
}
