#include <iterator>
#include <map>

#include <fmt/format.h>

#include "server/device/table.hpp"
#include "server/leg/uri.hpp"

namespace blockloom {
namespace {

bool is_unnamed_memory(std::string_view uri) {
  if (const auto inner = uri.rfind("]:"); uri.starts_with("fault:") && inner != uri.npos)
    uri.remove_prefix(inner + 2);
  return uri.starts_with("mem:") && uri.find('?') == std::string_view::npos;
}

}  // namespace

/// Makes a Table line by line, and is the LegOpener of its targets.
class Table::Builder final : public LegOpener {
 public:
  Builder(bool read_only, LegContext& context) : context_(context), table_(new Table) {
    table_->read_only_ = read_only;
  }

  Result<void> add(const TableLine& line) {
    line_ = &line;
    if (auto r = check_place(line); !r) return r;
    const TargetType* type = find_target_type(line.type);
    if (type == nullptr)
      return Error{Errc::invalid, fmt::format("line {}: unknown target type '{}': expected {}",
                                              line.number, line.type, type_names())};
    auto target = type->create({line.start, line.length, line.words, *this});
    if (!target)
      return Error{target.code(), fmt::format("line {}: {}", line.number, target.error().message)};
    append(line, std::move(target.value()));
    return {};
  }

  std::unique_ptr<Table> finish() {
    table_->index_ = SegmentIndex(starts_);
    for (const auto& leg : table_->legs_)
      table_->inline_only_ = table_->inline_only_ && leg->inline_only();
    return std::move(table_);
  }

  Result<std::shared_ptr<Leg>> open(std::string_view uri, Sectors offset, Sectors length) override {
    auto known = legs_.find(uri);
    if (known == legs_.end()) {
      auto leg = open_leg(uri, table_->read_only_, context_);
      if (!leg) return leg;
      known = legs_.emplace(std::string(uri), leg.value()).first;
      table_->legs_.push_back(std::move(leg.value()));
    }
    return checked(known->second, uri, offset, length);
  }

  Result<std::shared_ptr<Leg>> adopt(std::string_view uri, std::shared_ptr<Leg> leg, Sectors offset,
                                     Sectors length) override {
    auto known = legs_.find(uri);
    if (known == legs_.end()) {
      known = legs_.emplace(std::string(uri), leg).first;
      table_->legs_.push_back(std::move(leg));
    }
    return checked(known->second, uri, offset, length);
  }

 private:
  Result<std::shared_ptr<Leg>> checked(const std::shared_ptr<Leg>& leg, std::string_view uri,
                                       Sectors offset, Sectors length) {
    const Sectors size = to_sectors(leg->size());
    if (length > size || offset > size - length)
      return Error{
          Errc::invalid,
          fmt::format("leg '{}' is too small: it has {} sectors, and the target needs {} from "
                      "sector {} on",
                      public_uri(uri), size.value, length.value, offset.value)};
    if (is_unnamed_memory(uri))
      if (auto r = check_alone(uri, offset, length); !r) return r.error();
    return leg;
  }

  /// Two unnamed memories of one size read alike, and would silently be one. Lines that share it
  /// side by side mean that; those that overlap mean two. (A delay line may give its reads and
  /// writes one leg.)
  Result<void> check_alone(std::string_view uri, Sectors offset, Sectors length) {
    auto& taken = taken_[std::string(uri)];
    const auto next = taken.upper_bound(offset);
    const auto overlaps = [&](const auto& use) {
      const auto& [start, other] = use;
      const bool apart = start >= offset + length || start + other.length <= offset;
      return !apart && !(other.line == line_->number && line_->type == "delay");
    };
    if ((next != taken.end() && overlaps(*next)) ||
        (next != taken.begin() && overlaps(*std::prev(next))))
      return Error{Errc::invalid,
                   fmt::format("leg '{}' is used twice for the same sectors: give two memories "
                               "names, as in mem:1G?name=a",
                               uri)};
    taken.emplace(offset, Use{length, line_->number});
    return {};
  }

  Result<void> check_place(const TableLine& line) const {
    const Sectors expected = to_sectors(table_->size_);
    if (line.start == expected) return {};
    const bool gap = line.start > expected;
    return Error{
        Errc::invalid,
        fmt::format("line {}: start sector '{}' {} what stands before it: expected {}", line.number,
                    line.start.value, gap ? "leaves a gap after" : "overlaps", expected.value)};
  }

  static std::string type_names() {
    std::string names;
    for (const TargetType& type : target_types()) {
      if (!names.empty()) names += ", ";
      names += type.name;
    }
    return names;
  }

  void append(const TableLine& line, std::unique_ptr<Target> target) {
    if (target->watches_legs())
      for (const auto& leg : target->legs())
        table_->watched_.insert(leg.get());
    Segment segment{to_bytes(line.start), to_bytes(line.length), target->chunk(),  target->copies(),
                    target->chunks_all(), target->direct(),      std::move(target)};
    plan_flush(*segment.target, segment.copies);
    table_->inline_only_ = table_->inline_only_ && segment.target->inline_only();
    starts_.push_back(segment.start.value);
    table_->size_ += segment.length;
    table_->source_ += fmt::format("{} {} {}", line.start.value, line.length.value, line.type);
    for (const std::string& word : line.words)
      table_->source_ += ' ' + escape_word(word);
    table_->source_ += '\n';
    table_->segments_.push_back(std::move(segment));
  }

  void plan_flush(Target& target, std::uint32_t copies) {
    if (target.maps_flush()) {
      for (std::uint32_t copy = 0; copy < copies; ++copy)
        table_->flush_steps_.push_back({nullptr, &target, copy});
      return;
    }
    // Ten thousand segments over one file are one fdatasync.
    for (const auto& leg : target.legs())
      if (flushed_.emplace(leg.get(), true).second)
        table_->flush_steps_.push_back({leg.get(), nullptr, 0});
  }

  struct Use {
    Sectors length;
    unsigned line;
  };

  LegContext& context_;
  const TableLine* line_ = nullptr;                      // the one that add() works on
  std::map<std::string, std::map<Sectors, Use>> taken_;  // of unnamed memories
  std::unique_ptr<Table> table_;
  std::vector<std::uint64_t> starts_;
  std::map<std::string, std::shared_ptr<Leg>, std::less<>> legs_;
  std::map<const Leg*, bool> flushed_;
};

Result<std::unique_ptr<Table>> Table::create(std::string_view text, bool read_only,
                                             LegContext& context) {
  auto lines = parse_table(text);
  if (!lines) return lines.error();
  if (lines->empty())
    return Error{Errc::invalid,
                 "the table is empty: expected lines of \"START LENGTH TYPE ARGUMENTS\""};
  Builder builder(read_only, context);
  for (const TableLine& line : lines.value())
    if (auto r = builder.add(line); !r) return r.error();
  return builder.finish();
}

}  // namespace blockloom
