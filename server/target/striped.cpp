#include <bit>
#include <limits>

#include <fmt/format.h>

#include "server/target/table_line.hpp"
#include "server/target/types.hpp"

namespace blockloom {
namespace {

// striped STRIPES CHUNK_SIZE (LEG OFFSET){STRIPES}
//
//   Lays chunks of CHUNK_SIZE sectors over the legs in turn, each from its OFFSET on. The
//   target's length is a multiple of STRIPES × CHUNK_SIZE.
//   Status: STRIPES LEG… 1 HEALTH, one letter a stripe: A alive, D had an error.
constexpr std::string_view striped_grammar = "STRIPES CHUNK_SIZE (LEG OFFSET) for each stripe";

/// Divides by a number that is often a power of two, without a division then.
class Divisor {
 public:
  explicit Divisor(std::uint64_t n)
      : n_(n), shift_(std::has_single_bit(n) ? std::countr_zero(n) : -1) {}

  std::uint64_t value() const noexcept { return n_; }
  std::uint64_t quotient(std::uint64_t x) const noexcept {
    return shift_ >= 0 ? x >> shift_ : x / n_;
  }

 private:
  std::uint64_t n_;
  int shift_;
};

class StripedTarget final : public Target {
 public:
  StripedTarget(Sectors chunk, std::vector<std::shared_ptr<Leg>> legs, std::vector<Sectors> offsets)
      : chunk_(to_bytes(chunk).value), stripes_(legs.size()), legs_(std::move(legs)) {
    for (const Sectors offset : offsets)
      offsets_.push_back(to_bytes(offset));
  }

  std::string_view type() const noexcept override { return "striped"; }
  std::span<const std::shared_ptr<Leg>> legs() const noexcept override { return legs_; }
  Bytes chunk() const noexcept override { return Bytes(chunk_.value()); }
  std::uint32_t copies() const noexcept override {
    return static_cast<std::uint32_t>(stripes_.value());
  }

  Map map(Io& io) noexcept override {
    if (io.op == Op::trim || io.op == Op::zero) return map_range(io);
    const Place place = place_of(io.offset.value);
    io.leg = legs_[place.stripe].get();
    io.offset = offsets_[place.stripe] + Bytes(place.offset);
    return Map::remapped;
  }

  std::string status() const override;
  std::string table() const override;

 private:
  struct Place {
    std::uint64_t stripe;
    std::uint64_t offset;  // in bytes, from the stripe's start
  };

  Place place_of(std::uint64_t offset) const noexcept {
    const std::uint64_t chunk = chunk_.quotient(offset);
    const std::uint64_t row = stripes_.quotient(chunk);
    return {chunk - row * stripes_.value(), row * chunk_.value() + offset - chunk * chunk_.value()};
  }

  /// Where a stripe's own part begins of all that lies at or after an offset of the target.
  std::uint64_t stripe_begin(std::uint64_t stripe, std::uint64_t offset) const noexcept {
    const Place place = place_of(offset);
    if (place.stripe == stripe) return place.offset;
    const std::uint64_t row_start = chunk_.quotient(place.offset) * chunk_.value();
    return stripe < place.stripe ? row_start + chunk_.value() : row_start;
  }

  /// A trim or zero comes once per stripe with the whole range, which is contiguous there.
  Map map_range(Io& io) const noexcept {
    const std::uint64_t begin = stripe_begin(io.copy, io.offset.value);
    const std::uint64_t end = stripe_begin(io.copy, (io.offset + io.length).value);
    if (begin == end) {
      io.status = Errc::ok;
      return Map::done;
    }
    io.leg = legs_[io.copy].get();
    io.offset = offsets_[io.copy] + Bytes(begin);
    io.length = Bytes(end - begin);
    return Map::remapped;
  }

  const Divisor chunk_;  // in bytes
  const Divisor stripes_;
  const std::vector<std::shared_ptr<Leg>> legs_;
  std::vector<Bytes> offsets_;  // of each stripe in its leg
};

/// Checks the numbers of a table line against the target's length; messages name the word.
Result<void> check_layout(Sectors length, std::uint64_t stripes, std::uint64_t chunk) {
  if (length.value % stripes != 0)
    return Error{Errc::invalid,
                 fmt::format("striped: length {}: expected a multiple of the {} stripes",
                             length.value, stripes)};
  if (length.value / stripes % chunk != 0)
    return Error{Errc::invalid,
                 fmt::format("striped: length {}: expected a multiple of {} stripes × chunk size "
                             "{} = {}",
                             length.value, stripes, chunk, stripes * chunk)};
  return {};
}

}  // namespace

Result<std::unique_ptr<Target>> create_striped_target(const TargetArgs& args) {
  if (args.words.size() < 2) return wrong_count("striped", args.words.size(), striped_grammar);
  auto stripes = parse_number(args.words[0], "striped: number of stripes", max_u32);
  if (!stripes) return stripes.error();
  if (*stripes == 0)
    return Error{Errc::invalid, "striped: number of stripes '0': expected at least 1"};
  auto chunk = parse_number(args.words[1], "striped: chunk size", max_u32);
  if (!chunk || *chunk == 0)
    return Error{Errc::invalid,
                 fmt::format("striped: chunk size {}: expected a number of sectors from 1 to {}",
                             quoted(args.words[1]), max_u32)};
  if (auto layout = check_layout(args.length, *stripes, *chunk); !layout) return layout.error();
  if (args.words.size() != 2 + 2 * *stripes)
    return Error{Errc::invalid,
                 fmt::format("striped: {} words after the chunk size: expected {} for {} stripes "
                             "(LEG OFFSET each)",
                             args.words.size() - 2, 2 * *stripes, *stripes)};

  const Sectors width(args.length.value / *stripes);
  std::vector<std::shared_ptr<Leg>> legs;
  std::vector<Sectors> offsets;
  for (std::uint64_t i = 0; i < *stripes; ++i) {
    auto offset =
        parse_sectors(args.words[3 + 2 * i], fmt::format("striped: offset of stripe {}", i));
    if (!offset) return offset.error();
    auto leg = args.legs.open(args.words[2 + 2 * i], *offset, width);
    if (!leg) return leg.error();
    legs.push_back(std::move(*leg));
    offsets.push_back(*offset);
  }
  return std::unique_ptr<Target>(
      new StripedTarget(Sectors(*chunk), std::move(legs), std::move(offsets)));
}

std::string StripedTarget::status() const {
  std::string text = fmt::format("{} ", legs_.size());
  for (const auto& leg : legs_)
    text += escape_word(leg->uri()) + ' ';
  text += "1 ";
  for (const auto& leg : legs_)
    text += leg->totals().errors == 0 ? 'A' : 'D';
  return text;
}

std::string StripedTarget::table() const {
  std::string text = fmt::format("{} {}", legs_.size(), to_sectors(Bytes(chunk_.value())).value);
  for (std::size_t i = 0; i < legs_.size(); ++i)
    text += fmt::format(" {} {}", escape_word(legs_[i]->uri()), to_sectors(offsets_[i]).value);
  return text;
}

}  // namespace blockloom
