#include <array>

#include <fmt/format.h>

#include "server/target/table_line.hpp"
#include "server/target/types.hpp"

namespace blockloom {
namespace {

// linear LEG OFFSET
//
//   Maps the target's sectors to those of LEG from OFFSET on.
constexpr std::string_view linear_grammar = "LEG OFFSET";

class LinearTarget final : public Target {
 public:
  LinearTarget(std::shared_ptr<Leg> leg, Sectors offset)
      : legs_{std::move(leg)}, offset_(to_bytes(offset)) {}

  std::string_view type() const noexcept override { return "linear"; }
  std::span<const std::shared_ptr<Leg>> legs() const noexcept override { return legs_; }

  Direct direct() const noexcept override { return {legs_[0].get(), offset_}; }

  Map map(Io& io) noexcept override {
    io.leg = legs_[0].get();
    io.offset += offset_;
    return Map::remapped;
  }

  std::string table() const override {
    return fmt::format("{} {}", escape_word(legs_[0]->uri()), to_sectors(offset_).value);
  }

 private:
  const std::array<std::shared_ptr<Leg>, 1> legs_;
  const Bytes offset_;
};

}  // namespace

Result<std::unique_ptr<Target>> create_linear_target(const TargetArgs& args) {
  if (args.words.size() != 2) return wrong_count("linear", args.words.size(), linear_grammar);
  auto offset = parse_sectors(args.words[1], "linear: offset");
  if (!offset) return offset.error();
  auto leg = args.legs.open(args.words[0], *offset, args.length);
  if (!leg) return leg.error();
  return std::unique_ptr<Target>(new LinearTarget(std::move(*leg), *offset));
}

}  // namespace blockloom
