#include "proto/dump/flattened.hpp"

#include <algorithm>
#include <random>

#include <doctest/doctest.h>

#include "tests/unit/proto_dump/bytes_for_tests.hpp"

using namespace blockloom::dump;

namespace {

constexpr std::uint64_t largest = std::uint64_t{1} << 40;

Wire start(std::uint64_t type = 1, std::uint64_t version = 1) {
  Wire wire;
  wire.text("makedumpfile", 16).be(type, 8).be(version, 8).pad_to(4096);
  return wire;
}

Wire& record(Wire& wire, std::uint64_t offset, std::string_view bytes) {
  return wire.be(offset, 8).be(bytes.size(), 8).text(bytes);
}

Wire& finish(Wire& wire) {
  return wire.be(~std::uint64_t{0}, 8).be(~std::uint64_t{0}, 8);
}

struct Fed {
  FlattenedError error = FlattenedError::none;
  std::string image;
  bool ended = false;
};

/// Feeds a stream in pieces; between any two the parser is made anew from its state.
Fed feed(ByteView bytes, std::size_t step) {
  Fed fed;
  FlattenedState state;
  while (!bytes.empty() && fed.error == FlattenedError::none) {
    const std::size_t n = std::min(step, bytes.size());
    FlattenedParser parser(largest, state);
    std::vector<ImagePiece> pieces;
    fed.error = parser.feed(bytes.first(n), pieces);
    for (const ImagePiece& piece : pieces) {
      if (fed.image.size() < piece.offset + piece.bytes.size())
        fed.image.resize(piece.offset + piece.bytes.size(), '.');
      std::copy(piece.bytes.begin(), piece.bytes.end(),
                reinterpret_cast<std::byte*>(fed.image.data()) + piece.offset);
    }
    state = parser.state();
    bytes = bytes.subspan(n);
  }
  fed.ended = state.ended;
  return fed;
}

}  // namespace

TEST_CASE("records make the image, later ones win, in pieces of any size") {
  Wire wire = start();
  record(wire, 4, "data");
  record(wire, 0, "head");
  record(wire, 10, "tail");
  record(wire, 2, "XX");
  finish(wire).text("what comes after the end is ignored");
  for (const std::size_t step : {1, 2, 3, 15, 16, 17, 4095, 4096, 4097, 100000}) {
    CAPTURE(step);
    const Fed fed = feed(wire, step);
    CHECK(fed.error == FlattenedError::none);
    CHECK(fed.ended);
    CHECK(fed.image == "heXXdata..tail");
  }
}

TEST_CASE("a stream that is cut has not ended") {
  Wire wire = start();
  record(wire, 0, "data");
  CHECK_FALSE(feed(wire, 7).ended);
  finish(wire).bytes().pop_back();
  const Fed fed = feed(wire, 7);
  CHECK(fed.error == FlattenedError::none);
  CHECK_FALSE(fed.ended);
}

TEST_CASE("what breaks the format is an error of its kind") {
  CHECK(feed(Wire().text("makedumpfilx", 16).pad_to(4096), 100).error == FlattenedError::signature);
  CHECK(feed(start(2), 100).error == FlattenedError::version);
  CHECK(feed(start(1, 2), 100).error == FlattenedError::version);
  const auto after = [](std::uint64_t offset, std::uint64_t size) {
    Wire wire = start();
    return feed(wire.be(offset, 8).be(size, 8).text("x"), 100).error;
  };
  CHECK(after(0, 0) == FlattenedError::record);
  CHECK(after(~std::uint64_t{0}, 5) == FlattenedError::record);
  CHECK(after(5, ~std::uint64_t{0}) == FlattenedError::record);
  CHECK(after(largest, 1) == FlattenedError::too_large);
  CHECK(after(0, largest + 1) == FlattenedError::too_large);
  CHECK(after(std::uint64_t{1} << 62, std::uint64_t{1} << 62) == FlattenedError::too_large);
}

TEST_CASE("after an error nothing more is taken") {
  FlattenedParser parser(largest);
  std::vector<ImagePiece> pieces;
  CHECK(parser.feed(Wire().pad_to(4096), pieces) == FlattenedError::signature);
  Wire good = start();
  record(good, 0, "x");
  CHECK(parser.feed(good, pieces) == FlattenedError::signature);
  CHECK(pieces.empty());
}
