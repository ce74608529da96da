#include "server/target/mirror/spec.hpp"

#include <bit>
#include <functional>
#include <limits>

#include <fmt/format.h>

#include "server/leg/storage_name.hpp"
#include "server/leg/uri.hpp"
#include "server/target/table_line.hpp"

namespace blockloom::mirror {
namespace {

constexpr std::string_view grammar =
    "LOG #LOGARGS LOGARG… #LEGS (LEG OFFSET)… [#FEATURES FEATURE…]";
constexpr std::uint64_t smallest_region = 128;  // sectors: 64 KiB
constexpr std::uint64_t longest_ms = 3'600'000;
constexpr std::uint64_t default_timeout_ms = 8000;

/// Takes words from the front; the first failure stays.
class Words {
 public:
  explicit Words(std::span<const std::string> words) : words_(words) {}

  std::size_t left() const noexcept { return words_.size() - next_; }
  bool end() const noexcept { return left() == 0; }
  const std::string& take() { return words_[next_++]; }

  Result<const std::string*> need(std::string_view what) {
    if (!end()) return &take();
    return Error{Errc::invalid,
                 fmt::format("mirror: the line ends where {} is expected: {}", what, grammar)};
  }
  Result<std::uint64_t> count(std::string_view what, std::uint64_t most) {
    auto word = need(what);
    if (!word) return word.error();
    return parse_number(**word, fmt::format("mirror: {}", what), most);
  }
  /// The next `count` words, as a list of their own.
  Result<Words> sub(std::uint64_t count, std::string_view what) {
    if (count > left())
      return Error{Errc::invalid, fmt::format("mirror: {} {}: expected as many words after it, and "
                                              "there are {}",
                                              what, count, left())};
    Words part(words_.subspan(next_, count));
    next_ += count;
    return part;
  }

 private:
  std::span<const std::string> words_;
  std::size_t next_ = 0;
};

Result<void> take_region_size(MirrorSpec& spec, const std::string& word) {
  auto size = parse_number(word, "mirror: region size", std::uint64_t{1} << 31);
  if (!size) return size.error();
  if (*size < smallest_region || !std::has_single_bit(*size))
    return Error{Errc::invalid,
                 fmt::format("mirror: region size {}: expected a power of two of at least {} "
                             "sectors (64 KiB)",
                             quoted(word), smallest_region)};
  spec.region_size = Sectors(*size);
  return {};
}

Result<void> take_log_words(MirrorSpec& spec, Words words) {
  while (!words.end()) {
    const std::string& word = words.take();
    if (word == "sync" || word == "nosync")
      spec.sync = word == "sync";
    else if (word == "block_on_error")
      spec.block_on_error = true;
    else
      return Error{Errc::invalid, fmt::format("mirror: log argument {}: expected sync, nosync or "
                                              "block_on_error",
                                              quoted(word))};
  }
  return {};
}

Result<void> take_log(MirrorSpec& spec, Words& words) {
  auto type = words.need("the log (core or disk)");
  if (!type) return type.error();
  spec.disk_log = **type == "disk";
  if (!spec.disk_log && **type != "core")
    return Error{Errc::invalid,
                 fmt::format("mirror: log {}: expected core or disk", quoted(**type))};
  auto count = words.count("number of log arguments", 16);
  if (!count) return count.error();
  auto args = words.sub(*count, "number of log arguments");
  if (!args) return args.error();
  if (spec.disk_log) {
    if (args->left() < 2)
      return Error{Errc::invalid, "mirror: log disk: expected LOG_LEG REGION_SIZE [sync|nosync]"};
    spec.log_uri = args->take();
  } else if (args->end()) {
    return Error{Errc::invalid, "mirror: log core: expected REGION_SIZE [sync|nosync]"};
  }
  if (auto r = take_region_size(spec, args->take()); !r) return r;
  return take_log_words(spec, *args);
}

Result<void> take_legs(MirrorSpec& spec, Words& words) {
  auto count = words.count("number of legs", 255);
  if (!count) return count.error();
  if (*count < 1 || *count > max_legs)
    return Error{
        Errc::invalid,
        fmt::format("mirror: {} legs: expected 2 to {}; 1 is a mirror that lost its others", *count,
                    max_legs)};
  for (std::uint64_t i = 0; i < *count; ++i) {
    LegSpec leg;
    auto uri = words.need(fmt::format("leg {}", i));
    if (!uri) return uri.error();
    leg.uri = **uri;
    auto offset_word = words.need(fmt::format("the offset of leg {}", i));
    if (!offset_word) return offset_word.error();
    auto offset = parse_sectors(**offset_word, fmt::format("mirror: offset of leg {}", i));
    if (!offset) return offset.error();
    leg.offset = *offset;
    for (const LegSpec& other : spec.legs)
      if (same_storage(other, leg))
        return Error{Errc::invalid,
                     fmt::format("mirror: leg {} is given twice: two legs on one medium protect "
                                 "from nothing",
                                 quoted(leg.uri))};
    if (spec.disk_log && storage_name(leg.uri) == storage_name(spec.log_uri))
      return Error{Errc::invalid, fmt::format("mirror: {} is a leg and the log: expected another "
                                              "file for the log",
                                              quoted(leg.uri))};
    spec.legs.push_back(std::move(leg));
  }
  return {};
}

/// One feature with a value: its name, and how its value is read and written.
struct Key {
  std::string_view name;
  bool per_leg;
  std::function<Result<void>(MirrorSpec&, LegSpec*, const std::string& word)> take;
};

Result<std::uint64_t> milliseconds(std::string_view key, const std::string& word) {
  return parse_number(word, fmt::format("mirror: {}", key), longest_ms);
}

template <class Field>
Key ms_key(std::string_view name, Field MirrorSpec::*field) {
  return {name, false, [name, field](MirrorSpec& spec, LegSpec*, const std::string& word) {
            auto value = milliseconds(name, word);
            if (!value) return Result<void>(value.error());
            spec.*field = *value;
            return Result<void>();
          }};
}

Key leg_ms_key(std::string_view name, std::optional<std::uint64_t> MirrorSpec::*all,
               std::optional<std::uint64_t> LegSpec::*one) {
  return {name, true, [=](MirrorSpec& spec, LegSpec* leg, const std::string& word) {
            auto value = milliseconds(name, word);
            if (!value) return Result<void>(value.error());
            (leg != nullptr ? leg->*one : spec.*all) = *value;
            return Result<void>();
          }};
}

Key size_key(std::string_view name, std::optional<Bytes> MirrorSpec::*field) {
  return {name, false, [name, field](MirrorSpec& spec, LegSpec*, const std::string& word) {
            // "0" is no limit, and no size.
            auto value = word == "0" ? Result<Bytes>(Bytes(0))
                                     : parse_size(word, fmt::format("mirror: {}", name));
            if (!value) return Result<void>(value.error());
            spec.*field = *value;
            return Result<void>();
          }};
}

Key choice_key(std::string_view name, std::string_view expected,
               bool (*take)(MirrorSpec&, std::string_view)) {
  return {name, false, [=](MirrorSpec& spec, LegSpec*, const std::string& word) {
            if (take(spec, word)) return Result<void>();
            return Result<void>(Error{Errc::invalid, fmt::format("mirror: {} {}: expected {}", name,
                                                                 quoted(word), expected)});
          }};
}

Key number_key(std::string_view name, void (*set)(MirrorSpec&, unsigned), unsigned most) {
  return {name, false, [=](MirrorSpec& spec, LegSpec*, const std::string& word) {
            auto value = parse_number(word, fmt::format("mirror: {}", name), most);
            if (!value) return Result<void>(value.error());
            set(spec, static_cast<unsigned>(*value));
            return Result<void>();
          }};
}

const std::vector<Key>& keys() {
  static const std::vector<Key> list{
      leg_ms_key("timeout_ms", &MirrorSpec::timeout_ms, &LegSpec::timeout_ms),
      leg_ms_key("read_timeout_ms", &MirrorSpec::read_timeout_ms, &LegSpec::read_timeout_ms),
      ms_key("hedge_ms", &MirrorSpec::hedge_ms),
      ms_key("queue_timeout_ms", &MirrorSpec::queue_timeout_ms),
      ms_key("clean_delay_ms", &MirrorSpec::clean_delay_ms),
      ms_key("fence_delay_ms", &MirrorSpec::fence_delay_ms),
      size_key("resync_rate", &MirrorSpec::resync_rate),
      size_key("resync_min_rate", &MirrorSpec::resync_min_rate),
      size_key("late_limit", &MirrorSpec::late_limit),
      number_key(
          "min_acks", [](MirrorSpec& s, unsigned n) { s.min_acks = n; }, max_legs),
      number_key(
          "preferred", [](MirrorSpec& s, unsigned n) { s.preferred = n; }, max_legs - 1),
      choice_key("read_policy", "least_outstanding, preferred or round_robin",
                 [](MirrorSpec& s, std::string_view word) {
                   for (const ReadPolicy p : {ReadPolicy::least_outstanding, ReadPolicy::preferred,
                                              ReadPolicy::round_robin})
                     if (word == to_string(p)) return s.read_policy = p, true;
                   return false;
                 }),
      choice_key("on_all_failed", "error or queue",
                 [](MirrorSpec& s, std::string_view word) {
                   s.on_all_failed = word == "queue" ? OnAllFailed::queue : OnAllFailed::error;
                   return word == "queue" || word == "error";
                 }),
      {"uuid", false,
       [](MirrorSpec& spec, LegSpec*, const std::string& word) {
         spec.uuid = word;
         return Result<void>();
       }},
  };
  return list;
}

Error unknown_feature(const std::string& word) {
  std::string names;
  for (const Key& key : keys())
    names += fmt::format(", {}", key.name);
  return {Errc::invalid, fmt::format("mirror: feature {}: expected handle_errors, keep_log, "
                                     "force{} (with @N: of leg N alone)",
                                     quoted(word), names)};
}

Result<void> take_feature(MirrorSpec& spec, Words& words) {
  const std::string& word = words.take();
  if (word == "handle_errors") return spec.handle_errors = true, Result<void>();
  if (word == "keep_log") return spec.keep_log = true, Result<void>();
  if (word == "force") return spec.force = true, Result<void>();
  const auto at = word.find('@');
  const std::string_view name = std::string_view(word).substr(0, at);
  for (const Key& key : keys()) {
    if (key.name != name) continue;
    LegSpec* leg = nullptr;
    if (at != word.npos) {
      if (!key.per_leg)
        return Error{Errc::invalid,
                     fmt::format("mirror: feature {}: {} is the whole mirror's: expected it "
                                 "without @",
                                 quoted(word), name)};
      auto number =
          parse_number(word.substr(at + 1), fmt::format("mirror: leg in {}", quoted(word)),
                       spec.legs.size() - 1);
      if (!number) return number.error();
      leg = &spec.legs[*number];
    }
    auto value = words.need(fmt::format("the value of {}", word));
    if (!value) return value.error();
    return key.take(spec, leg, **value);
  }
  return unknown_feature(word);
}

Result<void> check_spec(const MirrorSpec& spec) {
  if (spec.min_acks < 1 || spec.min_acks > spec.legs.size())
    return Error{Errc::invalid, fmt::format("mirror: min_acks {}: expected 1 to {}, the number of "
                                            "legs",
                                            spec.min_acks, spec.legs.size())};
  if (spec.preferred && *spec.preferred >= spec.legs.size())
    return Error{Errc::invalid, fmt::format("mirror: preferred {}: expected a leg from 0 to {}",
                                            *spec.preferred, spec.legs.size() - 1)};
  return {};
}

}  // namespace

bool same_storage(const LegSpec& a, const LegSpec& b) {
  return a.offset == b.offset && (a.uri == b.uri || storage_name(a.uri) == storage_name(b.uri));
}

Result<MirrorSpec> parse_mirror(std::span<const std::string> list) {
  MirrorSpec spec;
  Words words(list);
  if (auto r = take_log(spec, words); !r) return r.error();
  if (auto r = take_legs(spec, words); !r) return r.error();
  if (!words.end()) {
    auto count = words.count("number of feature words", 256);
    if (!count) return count.error();
    auto features = words.sub(*count, "number of feature words");
    if (!features) return features.error();
    while (!features->end())
      if (auto r = take_feature(spec, *features); !r) return r.error();
  }
  if (!words.end())
    return Error{Errc::invalid, fmt::format("mirror: {} after the features: expected the end of "
                                            "the line",
                                            quoted(words.take()))};
  if (auto r = check_spec(spec); !r) return r.error();
  return spec;
}

std::string_view to_string(ReadPolicy policy) noexcept {
  switch (policy) {
    case ReadPolicy::least_outstanding:
      return "least_outstanding";
    case ReadPolicy::preferred:
      return "preferred";
    case ReadPolicy::round_robin:
      break;
  }
  return "round_robin";
}

// --- Writing ----------------------------------------------------------------------------------

namespace {

struct Features {
  unsigned count = 0;
  std::string text;

  void word(std::string_view w) { text += fmt::format(" {}", w), ++count; }
  template <class T>
  void pair(std::string_view key, const T& value) {
    text += fmt::format(" {} {}", key, value), count += 2;
  }
  template <class T>
  void pair_if(std::string_view key, const std::optional<T>& value) {
    if (!value) return;
    if constexpr (std::is_same_v<T, Bytes>)
      pair(key, value->value);
    else
      pair(key, *value);
  }
};

}  // namespace

std::string log_text(const MirrorSpec& spec) {
  std::string words;
  unsigned count = 1;
  if (spec.disk_log) words += fmt::format(" {}", escape_word(spec.log_uri)), ++count;
  words += fmt::format(" {}", spec.region_size.value);
  if (spec.sync) words += *spec.sync ? " sync" : " nosync", ++count;
  if (spec.block_on_error) words += " block_on_error", ++count;
  return fmt::format("{} {}{}", spec.disk_log ? "disk" : "core", count, words);
}

std::string to_text(const MirrorSpec& spec) {
  std::string text = fmt::format("{} {}", log_text(spec), spec.legs.size());
  for (const LegSpec& leg : spec.legs)
    text += fmt::format(" {} {}", escape_word(leg.uri), leg.offset.value);
  Features f;
  if (spec.handle_errors) f.word("handle_errors");
  if (spec.keep_log) f.word("keep_log");
  if (spec.force) f.word("force");
  if (!spec.uuid.empty()) f.pair("uuid", escape_word(spec.uuid));
  f.pair_if("timeout_ms", spec.timeout_ms);
  f.pair_if("read_timeout_ms", spec.read_timeout_ms);
  for (std::size_t i = 0; i < spec.legs.size(); ++i) {
    f.pair_if(fmt::format("timeout_ms@{}", i), spec.legs[i].timeout_ms);
    f.pair_if(fmt::format("read_timeout_ms@{}", i), spec.legs[i].read_timeout_ms);
  }
  if (spec.min_acks != 1) f.pair("min_acks", spec.min_acks);
  if (spec.read_policy != ReadPolicy::least_outstanding)
    f.pair("read_policy", to_string(spec.read_policy));
  f.pair_if("preferred", spec.preferred);
  if (spec.hedge_ms != 0) f.pair("hedge_ms", spec.hedge_ms);
  if (spec.on_all_failed == OnAllFailed::queue) f.pair("on_all_failed", "queue");
  f.pair_if("queue_timeout_ms", spec.queue_timeout_ms);
  f.pair_if("resync_rate", spec.resync_rate);
  f.pair_if("resync_min_rate", spec.resync_min_rate);
  f.pair_if("clean_delay_ms", spec.clean_delay_ms);
  f.pair_if("fence_delay_ms", spec.fence_delay_ms);
  f.pair_if("late_limit", spec.late_limit);
  if (f.count != 0) text += fmt::format(" {}{}", f.count, f.text);
  return text;
}

std::uint64_t timeout_of(const MirrorSpec& spec, std::size_t leg, bool remote) noexcept {
  if (spec.legs[leg].timeout_ms) return *spec.legs[leg].timeout_ms;
  if (spec.timeout_ms) return *spec.timeout_ms;
  return remote ? default_timeout_ms : 0;
}

}  // namespace blockloom::mirror
