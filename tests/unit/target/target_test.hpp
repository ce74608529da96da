#pragma once

#include <map>
#include <string>
#include <vector>

#include "server/target/table_line.hpp"
#include "server/target/target.hpp"
#include "tests/unit/leg/leg_test.hpp"

namespace blockloom::test {

/// Opens legs as a table does: each URI once, and inside its leg.
class Legs final : public LegOpener {
 public:
  Result<std::shared_ptr<Leg>> open(std::string_view uri, Sectors offset, Sectors length) override {
    asked.push_back({offset, length});
    auto& leg = by_uri_[std::string(uri)];
    if (!leg) {
      LegContext context;
      auto opened = open_leg(uri, false, context);
      if (!opened) return opened.error();
      leg = *opened;
    }
    if (to_bytes(offset + length) > leg->size()) return Error{Errc::out_of_range, "leg too small"};
    return leg;
  }

  Leg& operator[](const std::string& uri) {
    REQUIRE(by_uri_.contains(uri));
    return *by_uri_[uri];
  }

  struct Range {
    Sectors offset, length;
  };
  std::vector<Range> asked;

 private:
  std::map<std::string, std::shared_ptr<Leg>> by_uri_;
};

inline Result<std::unique_ptr<Target>> try_create(const std::string& text, LegOpener& legs) {
  auto lines = parse_table(text);
  REQUIRE_MESSAGE(lines, lines.error().message);
  REQUIRE(lines->size() == 1);
  const TableLine& line = lines->front();
  const TargetType* type = find_target_type(line.type);
  REQUIRE(type != nullptr);
  return type->create({line.start, line.length, line.words, legs});
}

inline std::unique_ptr<Target> create(const std::string& text, LegOpener& legs) {
  auto target = try_create(text, legs);
  REQUIRE_MESSAGE(target, target.error().message);
  return std::move(*target);
}

/// The message for a line of a type that must be refused.
inline std::string target_refusal(const std::string& text) {
  Legs legs;
  const auto target = try_create(text, legs);
  REQUIRE_FALSE(target);
  return target.error().message;
}

/// Maps one Io, and submits it where it was mapped to.
inline Submit submit(Target& target, Io& io) {
  switch (target.map(io)) {
    case Map::remapped:
      return io.leg->submit(io);
    case Map::done:
      return Submit::done;
    case Map::pending:
      break;
  }
  return Submit::pending;
}

inline Errc run(Target& target, TestIo& io) {
  if (submit(target, io.io) == Submit::pending) REQUIRE(io.waiter.wait());
  return io.io.status;
}

inline Errc run(Target& target, Op op, std::uint64_t offset, std::uint64_t length,
                std::uint8_t flags = 0) {
  TestIo io(op, offset, length, flags);
  return run(target, io);
}

inline Errc write(Target& target, std::uint64_t offset, const Data& data, std::uint8_t flags = 0) {
  TestIo io(Op::write, offset, data.size(), flags);
  io.data = data;
  io.io.data = io.data.data();
  return run(target, io);
}

inline Data read(Target& target, std::uint64_t offset, std::uint64_t length) {
  TestIo io(Op::read, offset, length);
  io.data.assign(length, std::byte{0xa5});
  REQUIRE(run(target, io) == Errc::ok);
  return io.data;
}

}  // namespace blockloom::test
