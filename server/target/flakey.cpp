#include <algorithm>
#include <array>
#include <limits>
#include <new>
#include <optional>

#include <fmt/format.h>

#include "server/base/clock.hpp"
#include "server/target/table_line.hpp"
#include "server/target/types.hpp"

namespace blockloom {
namespace {

// flakey LEG OFFSET UP DOWN [COUNT FEATURE…]
//
//   Works for UP seconds, then misbehaves for DOWN seconds, and so on from the moment when the
//   table was loaded. COUNT is the number of words that follow it. Without features all I/O fails
//   while down; with them, only what they say:
//     error_reads                 reads fail
//     error_writes                writes, trims, zeroes and flushes fail
//     drop_writes                 they succeed, and do nothing
//     corrupt_bio_byte NTH DIRECTION VALUE FLAGS
//       the NTH byte, from 1, of each read (r) or write (w) is replaced by VALUE, if the request
//       has all FLAGS (0: any), Linux's request flags: 1 is a write, 131072 FUA
constexpr std::string_view flakey_grammar = "LEG OFFSET UP DOWN [COUNT FEATURE…]";
constexpr std::string_view feature_names =
    "error_reads, error_writes, drop_writes or corrupt_bio_byte";

/// REQ_OP_WRITE and REQ_FUA of Linux 6.1's struct bio, which the flags of corrupt_bio_byte name.
constexpr std::uint64_t linux_write = 1, linux_fua = 1U << 17;

struct Corruption {
  std::uint64_t nth = 1;
  bool writes = false;
  std::uint8_t value = 0;
  std::uint64_t flags = 0;

  bool hits(const Io& io) const noexcept {
    if (io.op != (writes ? Op::write : Op::read)) return false;
    const std::uint64_t has =
        (io.op == Op::write ? linux_write : 0) | (io.has(io_flag::fua) ? linux_fua : 0);
    return (has & flags) == flags && nth <= io.length.value;
  }
  void apply(std::byte* data) const noexcept { data[nth - 1] = std::byte{value}; }
};

struct Features {
  bool error_reads = false, error_writes = false, drop_writes = false;
  std::optional<Corruption> corrupt;

  std::size_t words() const noexcept {
    return std::size_t{error_reads} + error_writes + drop_writes + (corrupt ? 5 : 0);
  }
};

/// A request that is corrupted on its way: this one goes to the leg instead of it.
struct Substitute {
  Io io;
  Io* original;
  Corruption corrupt;
  std::unique_ptr<std::byte[]> data;  // of a write: the caller's own is not touched
};

class FlakeyTarget final : public Target {
 public:
  FlakeyTarget(std::shared_ptr<Leg> leg, Sectors offset, std::uint64_t up, std::uint64_t down,
               Features features)
      : legs_{std::move(leg)}, offset_(offset), up_(up), down_(down), features_(features) {}

  std::string_view type() const noexcept override { return "flakey"; }
  std::span<const std::shared_ptr<Leg>> legs() const noexcept override { return legs_; }
  bool maps_flush() const noexcept override { return true; }
  bool inline_only() const noexcept override { return legs_[0]->inline_only(); }

  Map map(Io& io) noexcept override {
    io.leg = legs_[0].get();
    if (io.op != Op::flush) io.offset += to_bytes(offset_);
    return is_down() ? map_down(io) : Map::remapped;
  }

  std::string table() const override;

 private:
  bool is_down() const noexcept {
    const auto elapsed = static_cast<std::uint64_t>(
        std::chrono::duration_cast<std::chrono::seconds>(Clock::now() - start_).count());
    return elapsed % (up_ + down_) >= up_;
  }

  Map map_down(Io& io) noexcept {
    const bool fails_all = features_.words() == 0;
    const bool writes = io.modifies() || io.op == Op::flush;
    if (fails_all || (writes ? features_.error_writes : features_.error_reads))
      return finish(io, Errc::io);
    if (writes && features_.drop_writes) return finish(io, Errc::ok);
    if (features_.corrupt && features_.corrupt->hits(io)) return substitute(io);
    return Map::remapped;
  }

  static Map finish(Io& io, Errc status) noexcept {
    io.status = status;
    return Map::done;
  }

  Map substitute(Io& io) noexcept;
  static void end(Substitute& sub) noexcept;
  static void ended(Io& io) noexcept;

  const std::array<std::shared_ptr<Leg>, 1> legs_;
  const Sectors offset_;
  const std::uint64_t up_, down_;  // seconds
  const Features features_;
  const TimePoint start_ = Clock::now();
};

Map FlakeyTarget::substitute(Io& io) noexcept {
  auto sub = std::make_unique<Substitute>(Substitute{io, &io, *features_.corrupt, nullptr});
  if (io.op == Op::write) {
    sub->data.reset(new (std::nothrow) std::byte[io.length.value]);
    if (!sub->data) return finish(io, Errc::no_memory);
    std::copy_n(io.data, io.length.value, sub->data.get());
    sub->corrupt.apply(sub->data.get());
    sub->io.data = sub->data.get();
  }
  sub->io.owner = sub.get();
  sub->io.complete = ended;
  if (io.leg->submit(sub->io) == Submit::done) {
    end(*sub);
    return Map::done;
  }
  sub.release();  // ended() takes it
  return Map::pending;
}

/// Gives the original the substitute's result.
void FlakeyTarget::end(Substitute& sub) noexcept {
  sub.original->status = sub.io.status;
  if (sub.io.op == Op::read && sub.io.status == Errc::ok) sub.corrupt.apply(sub.original->data);
}

void FlakeyTarget::ended(Io& io) noexcept {
  const std::unique_ptr<Substitute> sub(static_cast<Substitute*>(io.owner));
  end(*sub);
  sub->original->complete(*sub->original);
}

/// Reads the words of the features one by one.
class FeatureParser {
 public:
  explicit FeatureParser(std::span<const std::string> words) : words_(words) {}

  Result<Features> parse() {
    while (!words_.empty())
      if (auto one = parse_one(); !one) return one.error();
    return check();
  }

 private:
  std::string_view take() {
    const std::string_view word = words_.front();
    words_ = words_.subspan(1);
    return word;
  }

  Result<void> parse_one() {
    const std::string_view word = take();
    if (is(word, "error_reads")) return set(features_.error_reads, word);
    if (is(word, "error_writes")) return set(features_.error_writes, word);
    if (is(word, "drop_writes")) return set(features_.drop_writes, word);
    if (is(word, "corrupt_bio_byte")) return parse_corruption(word);
    return Error{Errc::invalid,
                 fmt::format("flakey: feature {}: expected {}", quoted(word), feature_names)};
  }

  // dm takes features in either case.
  static bool is(std::string_view word, std::string_view name) {
    return std::equal(word.begin(), word.end(), name.begin(), name.end(), [](char a, char b) {
      return (a >= 'A' && a <= 'Z' ? static_cast<char>(a - 'A' + 'a') : a) == b;
    });
  }

  static Result<void> set(bool& flag, std::string_view word) {
    if (flag) return duplicate(word);
    flag = true;
    return {};
  }

  static Error duplicate(std::string_view word) {
    return {Errc::invalid, fmt::format("flakey: feature {}: expected it once", quoted(word))};
  }

  Result<void> parse_corruption(std::string_view word) {
    if (features_.corrupt) return duplicate(word);
    if (words_.size() < 4)
      return Error{Errc::invalid,
                   fmt::format("flakey: corrupt_bio_byte with {} words: expected NTH DIRECTION "
                               "VALUE FLAGS",
                               words_.size())};
    const std::string_view nth_word = take();
    auto nth = parse_number(nth_word, "flakey: corrupt_bio_byte: byte", max_u32);
    if (!nth) return nth.error();
    if (*nth == 0)
      return Error{Errc::invalid, "flakey: corrupt_bio_byte: byte '0': expected at least 1"};
    const std::string_view direction = take();
    if (!is(direction, "r") && !is(direction, "w"))
      return Error{Errc::invalid, fmt::format("flakey: corrupt_bio_byte: direction {}: expected "
                                              "r or w",
                                              quoted(direction))};
    auto value = parse_number(take(), "flakey: corrupt_bio_byte: value", 255);
    if (!value) return value.error();
    auto flags = parse_number(take(), "flakey: corrupt_bio_byte: flags", max_u32);
    if (!flags) return flags.error();
    features_.corrupt = {*nth, is(direction, "w"), static_cast<std::uint8_t>(*value), *flags};
    return {};
  }

  Result<Features> check() const {
    const auto conflict = [](std::string_view one, std::string_view other) {
      return Error{Errc::invalid,
                   fmt::format("flakey: features {} and {}: expected one of them", one, other)};
    };
    const bool corrupt_reads = features_.corrupt && !features_.corrupt->writes;
    const bool corrupt_writes = features_.corrupt && features_.corrupt->writes;
    if (features_.drop_writes && features_.error_writes)
      return conflict("drop_writes", "error_writes");
    if (features_.drop_writes && corrupt_writes)
      return conflict("drop_writes", "corrupt_bio_byte of writes");
    if (features_.error_writes && corrupt_writes)
      return conflict("error_writes", "corrupt_bio_byte of writes");
    if (features_.error_reads && corrupt_reads)
      return conflict("error_reads", "corrupt_bio_byte of reads");
    return features_;
  }

  std::span<const std::string> words_;
  Features features_;
};

Result<Features> parse_features(std::span<const std::string> words) {
  if (words.empty()) return Features{};
  auto count = parse_number(words[0], "flakey: number of feature words", max_u32);
  if (!count) return count.error();
  if (*count != words.size() - 1)
    return Error{Errc::invalid,
                 fmt::format("flakey: number of feature words {}: expected {}, as many as follow",
                             quoted(words[0]), words.size() - 1)};
  return FeatureParser(words.subspan(1)).parse();
}

}  // namespace

Result<std::unique_ptr<Target>> create_flakey_target(const TargetArgs& args) {
  if (args.words.size() < 4) return wrong_count("flakey", args.words.size(), flakey_grammar);
  auto offset = parse_sectors(args.words[1], "flakey: offset");
  if (!offset) return offset.error();
  auto up = parse_number(args.words[2], "flakey: up interval", max_u32);
  if (!up) return up.error();
  auto down = parse_number(args.words[3], "flakey: down interval", max_u32);
  if (!down) return down.error();
  if (*up + *down == 0 || *up + *down > max_u32)
    return Error{Errc::invalid,
                 fmt::format("flakey: up interval {} and down interval {}: expected a sum from 1 "
                             "to {} seconds",
                             *up, *down, max_u32)};
  auto features = parse_features(args.words.subspan(4));
  if (!features) return features.error();
  auto leg = args.legs.open(args.words[0], *offset, args.length);
  if (!leg) return leg.error();
  return std::unique_ptr<Target>(new FlakeyTarget(std::move(*leg), *offset, *up, *down, *features));
}

std::string FlakeyTarget::table() const {
  std::string text = fmt::format("{} {} {} {} {}", escape_word(legs_[0]->uri()), offset_.value, up_,
                                 down_, features_.words());
  if (features_.error_reads) text += " error_reads";
  if (features_.drop_writes) text += " drop_writes";
  if (features_.error_writes) text += " error_writes";
  if (const auto& c = features_.corrupt)
    text += fmt::format(" corrupt_bio_byte {} {} {} {}", c->nth, c->writes ? 'w' : 'r', c->value,
                        c->flags);
  return text;
}

}  // namespace blockloom
