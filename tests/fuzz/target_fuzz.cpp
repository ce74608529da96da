// The targets' table lines: every type's arguments, over legs that are always there.
#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>

#include "server/target/table_line.hpp"
#include "server/target/target.hpp"
#include "tests/fuzz/demand.hpp"

using namespace blockloom;

namespace {

/// A leg of any size, under any name, that does nothing.
class AnyLeg final : public Leg {
 public:
  using Leg::Leg;
  Bytes size() const noexcept override { return to_bytes(max_sectors); }
  bool inline_only() const noexcept override { return true; }

 private:
  Submit do_submit(Io& io) noexcept override { return io.finish_inline(Errc::ok); }
};

class AnyLegs final : public LegOpener {
 public:
  Result<std::shared_ptr<Leg>> open(std::string_view uri, Sectors offset, Sectors length) override {
    if (offset > max_sectors - length) return Error{Errc::out_of_range, "too small"};
    return std::shared_ptr<Leg>(std::make_shared<AnyLeg>(std::string(uri)));
  }
};

/// Whatever is mapped stays inside the leg's part.
void check_map(Target& target, Sectors length, Op op, Sectors at, std::uint32_t copy) {
  Io io;
  io.op = op;
  io.copy = copy;
  io.offset = to_bytes(at);
  io.length = op == Op::trim ? to_bytes(length - at) : Bytes(sector_size);
  Extents extents;
  io.extents = &extents;
  if (target.map(io) != Map::remapped) return;
  demand(io.leg != nullptr);
  demand(io.offset <= io.leg->size() && io.length <= io.leg->size() - io.offset);
  demand(io.offset.value % sector_size == 0 && io.length.value % sector_size == 0);
}

void check_line(const TableLine& line) {
  const TargetType* type = find_target_type(line.type);
  if (type == nullptr) return;
  AnyLegs legs;
  auto target = type->create({line.start, line.length, line.words, legs});
  if (!target) return demand(!target.error().message.empty());
  static_cast<void>((*target)->status());

  // What is printed makes the same target again.
  const std::string text = (*target)->table();
  const auto again = parse_table("0 1 " + line.type + " " + text);
  demand(static_cast<bool>(again) && again.value().size() == 1);
  auto twin = type->create({line.start, line.length, again.value()[0].words, legs});
  demand(static_cast<bool>(twin) && (*twin)->table() == text);

  if (line.type == "delay") return;  // it may hold what it maps
  const Sectors last(line.length.value - 1);
  for (const Sectors at : {Sectors(0), Sectors(last.value / 2), last}) {
    check_map(**target, line.length, Op::extents, at, 0);
    for (std::uint32_t copy = 0; copy < (*target)->copies(); ++copy)
      check_map(**target, line.length, Op::trim, at, copy);
  }
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  const auto lines = parse_table({reinterpret_cast<const char*>(data), size});
  if (!lines) return 0;
  for (const TableLine& line : lines.value())
    check_line(line);
  return 0;
}
